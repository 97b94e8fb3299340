# okubsd: make run shows Firefox from its own VM; make test proves it all.

PYTHON = python3
VENV = .venv
OUT = out

# What a Debian host needs to run VMs and to build images.
PACKAGES = e2fsprogs fdisk iproute2 ldnsutils mmdebstrap mtools nftables openssh-client python3-venv \
	qemu-system-x86 slirp4netns squashfs-tools syslinux syslinux-common uidmap util-linux xserver-xephyr xvfb
# What the tests need besides: other shells, linters, X clients to spy with.
TEST_PACKAGES = busybox fish git ksh93u+m mandoc mksh openssh-sftp-server openvpn procps qemu-utils shellcheck signify-openbsd \
	wireguard-tools xauth x11-utils xdotool zsh

# Real VMs get the machine for themselves.
FAST_TESTS = $(VENV)/bin/python -m pytest -m "not vm" -n auto

.PHONY: all run test test-fast bench lint packages test-packages install clean
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

test: test-packages $(VENV)/.tested
	@$(FAST_TESTS)
	@$(VENV)/bin/python -m pytest -m vm

test-fast: $(VENV)/.tested
	@$(FAST_TESTS)

bench: packages $(VENV)/.installed
	@$(VENV)/bin/okubsd bench --against stock

install:
	$(PYTHON) -m pip install .

clean:
	rm -rf build *.egg-info $(OUT) $(VENV)
