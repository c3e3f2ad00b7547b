//! How much memory there is, for the system promises more: it maps what a network asks for, and ends the process
//! without a word when that is used.

use std::path::Path;

/// Bytes that a process on this machine can have at most, swap included; `None` where the system does not tell.
pub(crate) fn total() -> Option<u64> {
    let (memory, swap) = of_machine(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = of_groups(&groups, Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX);
    Some(memory.min(limit).saturating_add(swap))
}

/// Memory and swap by the text of `/proc/meminfo`, in bytes.
fn of_machine(text: &str) -> Option<(u64, u64)> {
    let bytes = |key: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((bytes("MemTotal")?, bytes("SwapTotal").unwrap_or(0)))
}

/// The least limit of the control groups that the text of `/proc/self/cgroup` names, of either version, and of
/// those that these are in. In a container the paths may be those outside: what is not there has no limit.
fn of_groups(text: &str, mount: &Path) -> Option<u64> {
    let limits = text.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
        let (folder, file) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (mount.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let read = |group: &Path| {
            let text = std::fs::read_to_string(folder.join(group).join(file)).ok()?;
            // "max", for none, is no number.
            text.trim().parse::<u64>().ok()
        };
        Path::new(path.trim_start_matches('/')).ancestors().filter_map(read).collect()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has() {
        let text = "MemTotal:       24684092 kB\nMemFree:        15591080 kB\nSwapTotal:          1024 kB\n";
        assert_eq!(of_machine(text), Some((24_684_092 << 10, 1 << 20)));
        assert_eq!(of_machine("MemTotal: 8 kB\n"), Some((8192, 0)));
        assert_eq!(of_machine("MemTotal: much\n"), None);
        if cfg!(target_os = "linux") {
            assert!(total().is_some_and(|bytes| bytes > 1 << 26));
        }
    }

    #[test]
    fn the_narrowest_group_counts() {
        let mount = std::env::temp_dir().join(format!("ddpm-groups-{}", std::process::id()));
        let write = |folder: &str, file: &str, text: &str| {
            std::fs::create_dir_all(mount.join(folder)).unwrap();
            std::fs::write(mount.join(folder).join(file), text).unwrap();
        };
        write("memory/a/b", "memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/a", "memory.limit_in_bytes", "5000\n");
        write("", "memory.max", "6000\n");
        write("user", "memory.max", "max\n");
        let limit = |text: &str| of_groups(text, &mount);
        assert_eq!(limit("9:name=systemd:/a\n4:cpu,memory:/a/b\n"), Some(5000));
        assert_eq!(limit("0::/user/elsewhere\n"), Some(6000));
        assert_eq!(limit("0::/\n4:memory:/a\n"), Some(5000));
        assert_eq!((limit("3:cpuset:/\n"), limit("nonsense"), limit("")), (None, None, None));
        std::fs::remove_dir_all(&mount).unwrap();
    }
}
