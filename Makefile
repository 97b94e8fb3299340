# okubsd: make run shows Firefox from its own VM; make test proves it all.

PYTHON = python3
VENV = .venv
OUT = out

# Where `make install` puts things.
PREFIX = /usr/local
LIB = $(PREFIX)/lib/okubsd
COMPLETIONS = bash-completion/completions zsh/site-functions fish/vendor_completions.d

# What a Debian host needs to run VMs and to build images.
PACKAGES = e2fsprogs fdisk iproute2 ldnsutils mmdebstrap mtools nftables openssh-client python3-venv \
	qemu-system-x86 slirp4netns squashfs-tools syslinux syslinux-common uidmap util-linux x11-xkb-utils xserver-xephyr xvfb
# What the tests need besides: other shells, linters, X clients to spy with.
TEST_PACKAGES = busybox cwm dbus-bin dbus-daemon desktop-file-utils fish git i3-wm ksh93u+m mandoc mksh openbox openssh-sftp-server openvpn procps pulseaudio pulseaudio-utils zstd \
	qemu-utils shellcheck signify-openbsd \
	wireguard-tools xauth x11-utils x11-xserver-utils xdotool xterm zsh

# What `make test-recipes` tries: the shipped recipes with apps.
RECIPES = $(shell grep -l '^apps:' images/*/recipe.yaml | cut -d/ -f2 | grep -v bench)

GOLDEN_TESTS = tests/test_plan.py tests/test_images.py tests/test_qemu.py tests/test_guest.py tests/test_network.py \
	tests/test_rules.py tests/openbsd/test_port.py tests/openbsd/test_compile.py

PARTS = $(VENV)/bin/python tests/parts.py

.PHONY: all run test test-unit test-fast test-oldest test-vm test-recipes golden measure mutate bench lint packages test-packages install uninstall clean
.NOTPARALLEL:

all: $(VENV)/.installed

packages:
	@./etc/need-packages $(PACKAGES)

test-packages:
	@./etc/need-packages $(PACKAGES) $(TEST_PACKAGES)

$(VENV)/.installed: setup.py pyproject.toml README.md $(shell find okubsd images etc man -type f)
	@[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --upgrade .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(VENV)/bin/pip install -q '.[test]'
	@touch $@

# Firefox in its own VM, on $DISPLAY or on a display nobody sees; the picture is $(OUT)/browser.png.
run: packages $(VENV)/.installed
	@mkdir -p $(OUT)
	@headless=; [ -n "$$DISPLAY" ] || { headless=--headless; \
		echo "make run: there is no display, so Firefox is shown on a virtual one (Xvfb)"; }; \
	$(VENV)/bin/okubsd start browser $$headless --timing && \
	$(VENV)/bin/okubsd screenshot browser $(OUT)/browser.png
	@echo "The browser's window is in $(OUT)/browser.png.  What you can do now:"
	@echo "  $(VENV)/bin/okubsd list                       which VMs there are"
	@echo "  $(VENV)/bin/okubsd run browser -- uname -a    run a command in the VM"
	@echo "  $(VENV)/bin/okubsd start term                 another VM: a terminal"
	@echo "  $(VENV)/bin/okubsd stop browser               power it off"

# Every part, also after one that fails, and one total at the end.
test: test-packages $(VENV)/.tested $(VENV)-oldest/.installed
	@$(PARTS) unit fast oldest vm

# Pure code, by value: seconds.
test-unit: $(VENV)/.tested
	@$(PARTS) unit

# With real programs of the host, and no VM.
test-fast: test-packages $(VENV)/.tested
	@$(PARTS) unit fast

test-oldest: $(VENV)-oldest/.installed
	@$(PARTS) oldest

test-vm: test-packages $(VENV)/.tested
	@$(PARTS) vm

# Each shipped app in a VM of its own: it paints a window, and opens a file.  Downloads some gigabytes.
test-recipes: packages $(VENV)/.installed
	@$(VENV)/bin/okubsd image build $(RECIPES)
	@$(VENV)/bin/okubsd image try $(RECIPES)

# The expected texts, written anew; git diff shows what that changes.
golden: $(VENV)/.tested
	@OKUBSD_GOLDEN=write $(VENV)/bin/python -m pytest -q -m "not vm" -n auto $(GOLDEN_TESTS)

# Ruff, mypy, codespell, mandoc and shellcheck, as the tests call them.
lint: test-packages $(VENV)/.tested
	@$(VENV)/bin/python -m pytest -q tests/test_papers.py

# What a change of structure is judged by.
measure: $(VENV)/.tested
	@$(VENV)/bin/python tests/measure.py

# Lines that are broken, one after the other: do the pure tests notice?
mutate: $(VENV)/.tested
	@$(VENV)/bin/python tests/mutate.py

OLDEST = $(shell sed -n 's/.*"\([a-z-]*\)>=\([0-9.]*\)",/\1==\2/p' setup.py | grep -E '^(click|cryptography|msgspec|paramiko|python-xlib|pyyaml|rich)==')

$(VENV)-oldest/.installed: setup.py
	@$(PYTHON) -m venv $(VENV)-oldest
	@$(VENV)-oldest/bin/pip install -q $(OLDEST) hypothesis pexpect pytest pytest-xdist
	@touch $@

bench: packages $(VENV)/.installed
	@$(VENV)/bin/okubsd bench --against stock

# As root for everybody, or PREFIX=$$HOME/.local for one user: a virtual environment of its own (PEP 668), and the command, its
# manuals and its completions where a shell finds them.
install: packages
	@$(PYTHON) -m venv $(DESTDIR)$(LIB)
	@$(DESTDIR)$(LIB)/bin/pip install -q --upgrade .
	@mkdir -p $(DESTDIR)$(PREFIX)/bin $(COMPLETIONS:%=$(DESTDIR)$(PREFIX)/share/%)
	@ln -sf $(LIB)/bin/okubsd $(DESTDIR)$(PREFIX)/bin/okubsd
	@for page in man/*.[1-9]; do section=$${page##*.}; mkdir -p $(DESTDIR)$(PREFIX)/share/man/man$$section && \
		cp $$page $(DESTDIR)$(PREFIX)/share/man/man$$section/ || exit 1; done
	@$(DESTDIR)$(LIB)/bin/okubsd completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/okubsd
	@$(DESTDIR)$(LIB)/bin/okubsd completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_okubsd
	@$(DESTDIR)$(LIB)/bin/okubsd completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/okubsd.fish
	@echo "okubsd is installed: $(PREFIX)/bin/okubsd"
	@case ":$$PATH:" in *:$(PREFIX)/bin:*) ;; *) echo "add $(PREFIX)/bin to PATH" ;; esac

uninstall:
	rm -rf $(DESTDIR)$(LIB) $(DESTDIR)$(PREFIX)/bin/okubsd $(DESTDIR)$(PREFIX)/share/man/man?/okubsd*.[1-9] \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/okubsd \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_okubsd \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/okubsd.fish

clean:
	rm -rf build *.egg-info $(OUT) $(VENV) $(VENV)-oldest
