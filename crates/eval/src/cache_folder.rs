//! Where what can be computed or fetched again is kept.

use std::path::PathBuf;

/// `$XDG_CACHE_HOME/ddpm`, or `~/.cache/ddpm`; `None` where the system tells neither.
pub fn cache_folder() -> Option<PathBuf> {
    user_cache().map(|folder| folder.join("ddpm"))
}

/// The folder of all programs' caches.
pub(crate) fn user_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| {
        let home = set(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?;
        Some(home.join(".cache"))
    })
}
