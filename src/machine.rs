//! What this machine lets the process hold.

use sysinfo::{MemoryRefreshKind, System};

/// A bound on memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What sets it, to follow a number of bytes: `of this machine`.
    pub source: String,
    /// Bytes.
    pub bytes: u64,
    /// What it bounds.
    pub kind: LimitKind,
}

/// What a limit bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// What is resident.
    Resident,
    /// What is mapped, whether it is resident or not.
    AddressSpace,
}

/// The limits that are known: the machine's memory; on Linux those of the control groups that the
/// process is in, and that of its address space (`ulimit -v`).
pub fn limits() -> Vec<Limit> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let source = "of this machine".to_owned();
    let machine = Limit { source, bytes: system.total_memory(), kind: LimitKind::Resident };
    let mut limits = vec![machine];
    #[cfg(target_os = "linux")]
    limits.extend(linux::limits());
    // A system that tells nothing.
    limits.retain(|limit| limit.bytes > 0);
    limits
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};

    use procfs::process::{LimitValue, MountInfo, Process};

    use super::{Limit, LimitKind};

    /// Those of control groups and of the address space. What cannot be read bounds nothing.
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

    /// Whether a file system shows the memory limits of a group with these controllers: in version 2
    /// there is one for all, and none is named.
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

    /// The tightest limit of a group and of those that it lies in.
    fn tightest(mount: &MountInfo, group: &str) -> Option<Limit> {
        // In a container, the mount may show a part of the tree, and the path be that of the whole.
        let inside = Path::new(group).strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let file = match mount.fs_type.as_str() {
            "cgroup2" => "memory.max",
            _ => "memory.limit_in_bytes",
        };
        let groups = inside.ancestors().map(|group| mount.mount_point.join(group));
        let limit = |group: PathBuf| {
            // `max`, in version 2, is no number: no limit.
            let bytes = std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()?;
            let source = format!("of the control group {}", group.display());
            Some(Limit { source, bytes, kind: LimitKind::Resident })
        };
        groups.filter_map(limit).min_by_key(|limit| limit.bytes)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A mount of `dir`, written as the kernel does.
        fn mount(root: &str, dir: &Path, fs_type: &str, options: &str) -> MountInfo {
            let dir = dir.display();
            let line = format!("36 35 0:31 {root} {dir} rw - {fs_type} cgroup rw,{options}");
            MountInfo::from_line(&line).unwrap()
        }

        #[test]
        fn the_tightest_of_nested_groups_counts() {
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
        fn a_container_that_sees_a_part_of_the_tree() {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
            let mount = mount("/docker/1234", dir.path(), "cgroup2", "nsdelegate");
            for group in ["/docker/1234", "/", "/../elsewhere"] {
                assert_eq!(tightest(&mount, group).unwrap().bytes, 1000, "{group}");
            }
        }

        #[test]
        fn only_the_file_system_with_the_memory_controller_is_asked() {
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
        // More than any has, and less.
        assert!(limits[0].bytes > 1 << 26 && limits[0].bytes < 1 << 50, "{limits:?}");
        assert_eq!(limits[0].kind, LimitKind::Resident);
    }
}
