// Settings for a guest whose display is a nested X server across a network.
pref("browser.aboutConfig.showWarning", false);
pref("browser.sessionstore.resume_from_crash", false);
pref("browser.tabs.firefox-view", false);
pref("gfx.webrender.software", true);
// The language of the VM, where it has one.
pref("intl.locale.requested", "");
pref("layers.acceleration.disabled", true);
pref("toolkit.cosmeticAnimations.enabled", false);
pref("ui.prefersReducedMotion", 1);
