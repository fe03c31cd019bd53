//! The memory limits of this machine and process.

use sysinfo::{MemoryRefreshKind, System};

/// A limit on memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What sets the limit; follows a number of bytes: `of this machine`.
    pub source: String,
    /// Bytes.
    pub bytes: u64,
    /// What is limited.
    pub kind: LimitKind,
}

/// The kind of memory that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Resident memory.
    Resident,
    /// Mapped memory, resident or not.
    AddressSpace,
}

/// All known limits: the machine's memory; on Linux also those of the process's control groups and
/// of its address space (`ulimit -v`).
pub fn limits() -> Vec<Limit> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let source = "of this machine".to_owned();
    let machine = Limit { source, bytes: system.total_memory(), kind: LimitKind::Resident };
    let mut limits = vec![machine];
    #[cfg(target_os = "linux")]
    limits.extend(linux::limits());
    // Zero means that the system did not tell.
    limits.retain(|limit| limit.bytes > 0);
    limits
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use procfs::process::{LimitValue, MountInfo, Process};

    use super::{Limit, LimitKind};

    /// The limits of control groups and of the address space. What cannot be read is left out.
    pub fn limits() -> Vec<Limit> {
        let Ok(process) = Process::myself() else { return Vec::new() };
        let mut limits = Vec::new();
        if let Ok(LimitValue::Value(bytes)) =
            process.limits().map(|limits| limits.max_address_space.soft_limit)
        {
            let source = "of address space (ulimit -v)".to_owned();
            limits.push(Limit { source, bytes, kind: LimitKind::AddressSpace });
        }
        let (Ok(groups), Ok(mounts)) = (process.cgroups(), process.mountinfo()) else {
            return limits;
        };
        for group in groups {
            let mount = mounts.0.iter().find(|mount| holds(mount, &group.controllers));
            limits.extend(mount.and_then(|mount| tightest(mount, &group.pathname)));
        }
        limits
    }

    /// Whether a mounted file system shows the memory limits of a group with these controllers. In
    /// version 2 there is one file system for all controllers, and none is named.
    fn holds(mount: &MountInfo, controllers: &[String]) -> bool {
        match mount.fs_type.as_str() {
            "cgroup2" => controllers.is_empty(),
            "cgroup" => {
                controllers.iter().any(|name| name == "memory")
                    && mount.super_options.contains_key("memory")
            }
            _ => false,
        }
    }

    /// The lowest limit of a group and of the groups that contain it.
    fn tightest(mount: &MountInfo, group: &str) -> Option<Limit> {
        // In a container, the mount may show a subtree, while the path is that of the whole tree.
        let inside = Path::new(group).strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let file = match mount.fs_type.as_str() {
            "cgroup2" => "memory.max",
            _ => "memory.limit_in_bytes",
        };
        let groups = inside.ancestors().map(|group| mount.mount_point.join(group));
        let limit = |group: PathBuf| {
            // In version 2, `max` stands for no limit; it is not a number.
            let bytes = std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()?;
            let source = format!("of the control group {}", group.display());
            Some(Limit { source, bytes, kind: LimitKind::Resident })
        };
        groups.filter_map(limit).min_by_key(|limit| limit.bytes)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A mount at `dir`, parsed from a line as the kernel writes it.
        fn mount(root: &str, dir: &Path, fs_type: &str, options: &str) -> MountInfo {
            let dir = dir.display();
            let line = format!("36 35 0:31 {root} {dir} rw - {fs_type} cgroup rw,{options}");
            MountInfo::from_line(&line).unwrap()
        }

        #[test]
        fn the_lowest_limit_of_nested_groups_counts() {
            let dir = tempfile::tempdir().unwrap();
            let inner = dir.path().join("box/run");
            std::fs::create_dir_all(&inner).unwrap();
            for (fs_type, file) in [("cgroup2", "memory.max"), ("cgroup", "memory.limit_in_bytes")]
            {
                let mount = mount("/", dir.path(), fs_type, "memory");
                assert_eq!(tightest(&mount, "/box/run"), None);
                std::fs::write(dir.path().join("box").join(file), "1000\n").unwrap();
                std::fs::write(inner.join(file), "max\n").unwrap();
                assert_eq!(tightest(&mount, "/box/run").unwrap().bytes, 1000);
                std::fs::write(inner.join(file), "999\n").unwrap();
                let limit = tightest(&mount, "/box/run").unwrap();
                assert_eq!((limit.bytes, limit.kind), (999, LimitKind::Resident));
                assert!(limit.source.ends_with("box/run"), "{}", limit.source);
            }
        }

        #[test]
        fn a_container_may_see_a_subtree() {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
            let mount = mount("/docker/1234", dir.path(), "cgroup2", "nsdelegate");
            for group in ["/docker/1234", "/", "/../elsewhere"] {
                assert_eq!(tightest(&mount, group).unwrap().bytes, 1000, "{group}");
            }
        }

        #[test]
        fn only_the_file_system_with_the_memory_controller_is_used() {
            let dir = Path::new("/");
            let names =
                |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
            assert!(holds(&mount("/", dir, "cgroup2", "nsdelegate"), &[]));
            assert!(!holds(&mount("/", dir, "cgroup2", "nsdelegate"), &names(&["memory"])));
            assert!(holds(&mount("/", dir, "cgroup", "memory"), &names(&["memory"])));
            assert!(!holds(&mount("/", dir, "cgroup", "cpu"), &names(&["memory"])));
            assert!(!holds(&mount("/", dir, "cgroup", "memory"), &names(&["cpu", "cpuacct"])));
            assert!(!holds(&mount("/", dir, "tmpfs", "memory"), &[]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let limits = limits();
        // More than 64 MB and less than a petabyte.
        assert!(limits[0].bytes > 1 << 26 && limits[0].bytes < 1 << 50, "{limits:?}");
        assert_eq!(limits[0].kind, LimitKind::Resident);
    }
}
