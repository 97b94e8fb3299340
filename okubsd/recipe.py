"""What an image is made from: frozen values of recipe.yaml (okubsd-image(5)).  Imports nothing of ours but model."""

from __future__ import annotations

import msgspec

from okubsd.model import Argv, Kind


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A transparent proxy of a gateway: its ports for TCP and for DNS, and the user who alone may use the uplink."""

    tcp: int
    dns: int
    user: str


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The second wall around the apps of an image (okubsd-image(5), SANDBOX).

    ``home`` are the paths of the home that they see, below it (() for all of it), ``devices`` those of /dev beside the
    plainest, ``network`` whether they have any.
    """

    on: bool = True
    home: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: bool = True


class Translations(msgspec.Struct, frozen=True):
    """The packages with an app's words: ``package`` has {} for one ``of`` their languages, or has all of them."""

    package: str
    of: tuple[str, ...] = ()


class Deb(msgspec.Struct, frozen=True):
    """A package of the user's own: its path on this host, and its SHA-256 in hex."""

    path: str
    sha256: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is made from (okubsd-image(5)).

    ``apps`` maps the name of an app to its command; ``setuid`` lists the paths that keep their setuid bit; ``files``
    is the directory laid over the tree, relative to the recipe. ``network_modules`` are those that only a gateway
    loads, ``gateway`` says that this image is one's, and ``proxy`` what it has instead of a tunnel, ``sandbox`` what
    its apps see of the guest, ``container`` the archive of a container, beside the recipe, instead of packages.
    ``image`` is the image that is made, "" for the recipe's name; ``kernel`` the configuration of a kernel that is
    compiled. ``tools`` are packages of a base that only builds need, or what an app has of them; ``builder`` builds
    images, ``sound`` says that apps are heard, ``translations`` where their words are, ``locales`` which are asked
    for, ``memory`` is what a VM needs in bytes (0: unknown), ``opens`` a file for each app that it is tried with.
    ``about`` says in a few words what it is for, ``debs`` are packages of the user's own, of which the files alone are
    taken.
    """

    name: str
    kind: Kind
    base: str = ""
    packages: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    apps: dict[str, Argv] = {}
    services: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    network_modules: tuple[str, ...] = ()
    gateway: bool = False
    builder: bool = False
    about: str = ""
    debs: tuple[Deb, ...] = ()
    sound: bool = False
    notifications: bool = False
    memory: int = 0
    opens: dict[str, str] = {}
    translations: Translations | None = None
    locales: tuple[str, ...] = ()
    proxy: Proxy | None = None
    setuid: tuple[str, ...] = ()
    sandbox: Sandbox = Sandbox()
    container: str = ""
    image: str = ""
    kernel: str = ""
    files: str = ""
    suite: str = ""
    mirror: str = ""
    digest: str = ""

    @property
    def makes(self) -> str:
        return self.image or self.name
