//! What every boot needs and none should make anew: the kernel, its modules, the initramfs. Kept in `.cache/vm` of
//! the repository, made under a file lock since several test processes may come at once.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use super::VmError;
use super::image::{Initramfs, filter_into, unpack_kernel};

/// Overrides where the kernel is kept, for machines whose checkouts are thrown away.
const CACHE_ENV: &str = "VM_CACHE_DIR";

/// The generic kernel: the cloud one has no 9p.
const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// Loaded by the initramfs; everything else the guest's kernel loads by itself when it is asked for.
const MODULES: [&str; 11] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "overlay",
    "crc32c_generic",
    "dm-snapshot",
    "dm-thin-pool",
    "ext4",
    "xfs",
];

const INIT: &str = include_str!("init.sh");

#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) vmlinux: PathBuf,
    pub(super) initramfs: PathBuf,
    /// The directory that the guest sees as `/lib/modules`.
    pub(super) modules: PathBuf,
}

/// The first tool that is needed and not there, said as a reason.
pub(super) fn missing_tool() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the guest is an x86_64 machine, this host is not".into());
    }
    ["qemu-system-x86_64", "setpriv", "dpkg", "apt-get", "xz"]
        .into_iter()
        .find(|tool| !in_path(tool))
        .map(|tool| format!("{tool} is not installed (scripts/install-deps vm)"))
}

fn in_path(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

pub(super) fn prepared() -> Result<Prepared, VmError> {
    if let Some(reason) = missing_tool() {
        return Err(VmError::Unavailable(reason));
    }
    let cache = cache_dir();
    prepare_in(&cache)
        .map_err(VmError::harness(format!("cannot prepare the guest's kernel in {}", cache.display())))
}

fn cache_dir() -> PathBuf {
    std::env::var_os(CACHE_ENV)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/vm"), PathBuf::from)
}

fn prepare_in(cache: &Path) -> anyhow::Result<Prepared> {
    fs::create_dir_all(cache)?;
    let cache = cache.canonicalize()?;
    let lock = fs::File::create(cache.join("lock"))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot lock")?;

    let kernel = cache.join("kernel");
    if !kernel.is_dir() {
        let partial = cache.join("kernel.partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        fetch_kernel(&partial)?;
        fs::rename(&partial, &kernel)?;
    }
    let mut hasher = DefaultHasher::new();
    (INIT, MODULES).hash(&mut hasher);
    let initramfs = cache.join(format!("initramfs-{:016x}", hasher.finish()));
    if !initramfs.is_file() {
        let partial = cache.join("initramfs.partial");
        fs::write(&partial, build_initramfs(&kernel)?)?;
        fs::rename(&partial, &initramfs)?;
    }
    Ok(Prepared { vmlinux: kernel.join("vmlinux"), initramfs, modules: kernel.join("lib/modules") })
}

/// Downloads the kernel and busybox, installing nothing, and unpacks them into `dir`.
fn fetch_kernel(dir: &Path) -> anyhow::Result<()> {
    let package = match kernel_package()? {
        Some(package) => package,
        None => {
            run(Command::new("apt-get").args(["-qq", "update"]))?;
            kernel_package()?.with_context(|| format!("this distribution has no package {KERNEL_PACKAGE}"))?
        }
    };
    let download = || {
        run(Command::new("apt-get").args(["-qq", "download", &package, "busybox-static"]).current_dir(dir))
    };
    if download().is_err() {
        // The list names a version that the mirror no longer has.
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        download()?;
    }
    for package in files_with_suffix(dir, ".deb")? {
        run(Command::new("dpkg").arg("-x").arg(&package).arg(dir))?;
        fs::remove_file(package)?;
    }
    let release = release(dir)?;
    run(Command::new(dir.join("bin/busybox")).args(["depmod", "-b"]).arg(dir).arg(&release))?;
    unpack_kernel(&dir.join("boot").join(format!("vmlinuz-{release}")), &dir.join("vmlinux"))
}

/// What the metapackage depends on, such as `linux-image-6.1.0-56-amd64`.
fn kernel_package() -> anyhow::Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", KERNEL_PACKAGE])
        .output()
        .context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned))
}

fn release(dir: &Path) -> anyhow::Result<String> {
    let modules = dir.join("lib/modules");
    let entry =
        fs::read_dir(&modules)?.next().with_context(|| format!("{} is empty", modules.display()))??;
    entry.file_name().into_string().map_err(|name| anyhow::anyhow!("odd kernel release {}", name.display()))
}

fn build_initramfs(kernel: &Path) -> anyhow::Result<Vec<u8>> {
    let tree = kernel.join("lib/modules").join(release(kernel)?);
    let order = load_order(&fs::read_to_string(tree.join("modules.dep"))?)?;
    let mut archive = Initramfs::new();
    for directory in ["bin", "dev", "lower", "modules", "new", "proc", "sys", "upper"] {
        archive.directory(directory);
    }
    archive.console();
    archive.file("init", INIT.as_bytes());
    archive.file("bin/busybox", &fs::read(kernel.join("bin/busybox"))?);
    let mut names = String::new();
    for path in order {
        let name = module_name(&path).to_owned();
        archive.file(&format!("modules/{name}"), &module_bytes(&tree.join(&path))?);
        names.push_str(&name);
        names.push('\n');
    }
    archive.file("modules/order", names.as_bytes());
    Ok(archive.finish())
}

/// Paths of [`MODULES`] and of all that they need, each after what it needs.
fn load_order(modules_dep: &str) -> anyhow::Result<Vec<String>> {
    let mut needs = HashMap::new();
    for line in modules_dep.lines() {
        let (path, dependencies) =
            line.split_once(':').with_context(|| format!("odd line in modules.dep: {line}"))?;
        needs.insert(module_name(path).to_owned(), (path, dependencies));
    }
    let mut order = Vec::new();
    for module in MODULES {
        // File names have - or _ as their author liked.
        let [dashes, underscores] = [module.replace('_', "-"), module.replace('-', "_")];
        let name = [module, &dashes, &underscores].into_iter().find(|name| needs.contains_key(*name));
        // A module that is not there is built into the kernel, or insmod's absence shows at boot.
        if let Some(name) = name {
            push_with_needs(name, &needs, &mut order)?;
        }
    }
    Ok(order)
}

fn push_with_needs(
    name: &str,
    needs: &HashMap<String, (&str, &str)>,
    order: &mut Vec<String>,
) -> anyhow::Result<()> {
    let Some((path, dependencies)) = needs.get(name) else {
        bail!("modules.dep names {name} and does not list it")
    };
    if order.iter().any(|known| known == path) {
        return Ok(());
    }
    for dependency in dependencies.split_whitespace() {
        push_with_needs(module_name(dependency), needs, order)?;
    }
    order.push((*path).to_owned());
    Ok(())
}

/// `kernel/fs/xfs/xfs.ko.xz` is `xfs`.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

fn module_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(bytes),
    };
    let unpacked = tempfile::NamedTempFile::new()?;
    filter_into(program, &["-dcq"], &bytes, unpacked.path())?;
    Ok(fs::read(unpacked.path())?)
}

fn files_with_suffix(dir: &Path, suffix: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "no {suffix} file came into {}", dir.display());
    Ok(files)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output =
        command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed with {}: {}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dep = "kernel/a/overlay.ko:\nkernel/b/xfs.ko.xz: kernel/c/libcrc32c.ko\nkernel/c/libcrc32c.ko: kernel/d/crc.ko\nkernel/d/crc.ko:\n";
        let order = load_order(dep).unwrap();
        assert_eq!(
            order,
            ["kernel/a/overlay.ko", "kernel/d/crc.ko", "kernel/c/libcrc32c.ko", "kernel/b/xfs.ko.xz"]
        );
    }

    #[test]
    fn a_dangling_dependency_is_an_error() {
        assert!(load_order("kernel/b/xfs.ko: kernel/c/gone.ko\n").is_err());
    }
}
