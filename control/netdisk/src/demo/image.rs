//! The real bytes that the demo writes: a given file, or the workspace's own sources packed as an image.

use super::stamp::BLOCK_BYTES;
use super::ustar;
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Room for a file system's own tables beside the files.
const FILE_SYSTEM_BYTES_MIN: u64 = 8 << 20;
/// Pieces that an image is written in, where it is large enough: so that halfway is halfway.
const CHUNKS_WANTED: u64 = 64;
const CHUNK_BYTES_MAX: u64 = 256 << 10;

/// A file to be written to the virtual disk.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    length: u64,
    what: String,
}

impl Image {
    /// Takes a file as it is.
    pub(super) fn given(path: &Path) -> anyhow::Result<Image> {
        let what = path.display().to_string();
        Image::open(path, what).with_context(|| format!("cannot use {} as input", path.display()))
    }

    /// Packs the workspace's sources, or this program itself where there are none.
    pub(super) fn packed(target: &Path, staging: &Path) -> anyhow::Result<Image> {
        match find_sources()? {
            Some((root, files)) => pack(&root, &files, target, staging),
            None => {
                let what = "this program itself, as there are no sources here".to_owned();
                Image::open(Path::new("/proc/self/exe"), what)
            }
        }
    }

    fn open(path: &Path, what: String) -> anyhow::Result<Image> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "not a plain file; pack the folder first");
        ensure!(metadata.len() > 0, "the file is empty");
        Ok(Image { file, length: metadata.len(), what })
    }

    /// What a person calls it.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// What it takes on the disk: whole blocks.
    pub(super) fn padded_length(&self) -> u64 {
        self.length.next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Bytes of a piece; the last may be shorter. A multiple of the block.
    pub(super) fn chunk_bytes(&self) -> u64 {
        let wanted = (self.length / CHUNKS_WANTED).next_multiple_of(BLOCK_BYTES as u64);
        wanted.clamp(BLOCK_BYTES as u64, CHUNK_BYTES_MAX)
    }

    /// Reads a piece; zeroes beyond the end pad it to whole blocks. Gives the image's own bytes in it.
    pub(super) fn read_at(&self, offset: u64, chunk: &mut Vec<u8>) -> anyhow::Result<usize> {
        let padded = self.chunk_bytes().min(self.padded_length() - offset) as usize;
        let own = (padded as u64).min(self.length - offset) as usize;
        chunk.clear();
        chunk.resize(padded, 0);
        self.file
            .read_exact_at(&mut chunk[..own], offset)
            .with_context(|| format!("reading {} at byte {offset}", self.what))?;
        Ok(own)
    }
}

/// The checkout that the current folder lies in, and its files.
fn find_sources() -> anyhow::Result<Option<(PathBuf, Vec<PathBuf>)>> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    let Some(root) = here.ancestors().find(|folder| folder.join("control/netdisk/Cargo.toml").is_file())
    else {
        return Ok(None);
    };
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let mut files: Vec<PathBuf> = match listed {
        Some(output) => {
            String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(PathBuf::from).collect()
        }
        None => {
            let mut found = Vec::new();
            walk(root, Path::new(""), &mut found)?;
            found
        }
    };
    // A listed file may have been deleted or be a link out of the checkout.
    files.retain(|file| root.join(file).symlink_metadata().is_ok_and(|metadata| metadata.is_file()));
    files.sort();
    Ok((!files.is_empty()).then(|| (root.to_path_buf(), files)))
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let listing = std::fs::read_dir(root.join(folder))
        .with_context(|| format!("cannot list {}", root.join(folder).display()))?;
    for entry in listing {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
            walk(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// The first of: an ext4 file system, a squashfs, a tar archive.
fn pack(root: &Path, files: &[PathBuf], target: &Path, staging: &Path) -> anyhow::Result<Image> {
    let mut bytes = 0;
    for file in files {
        let copy = staging.join(file);
        if let Some(folder) = copy.parent() {
            std::fs::create_dir_all(folder)?;
        }
        bytes += std::fs::copy(root.join(file), &copy)
            .with_context(|| format!("copying {}", file.display()))?
            .next_multiple_of(BLOCK_BYTES as u64);
    }
    let count = files.len();
    let kind = if make_ext4(staging, bytes, target)? {
        "an ext4 image"
    } else if make_squashfs(staging, target)? {
        "a squashfs image (no mkfs.ext4 here)"
    } else {
        make_tar(staging, files, target)?;
        "a tar archive (neither mkfs.ext4 nor mksquashfs here)"
    };
    std::fs::remove_dir_all(staging)?;
    Image::open(target, format!("{count} files of the workspace as {kind}"))
}

/// `false`: the tool is not there or cannot do it.
fn make_ext4(staging: &Path, bytes: u64, target: &Path) -> anyhow::Result<bool> {
    let size = (bytes + bytes / 4).next_multiple_of(1 << 20) + FILE_SYSTEM_BYTES_MIN;
    File::create(target)?.set_len(size)?;
    let mut command = tool("mkfs.ext4");
    command.args(["-q", "-F", "-b", "4096", "-L", "netdisk-demo", "-d"]).arg(staging).arg(target);
    Ok(runs(&mut command))
}

fn make_squashfs(staging: &Path, target: &Path) -> anyhow::Result<bool> {
    // It would append to what the other tool left.
    std::fs::remove_file(target)?;
    let mut command = tool("mksquashfs");
    command.arg(staging).arg(target).args(["-quiet", "-no-progress"]);
    Ok(runs(&mut command))
}

fn make_tar(staging: &Path, files: &[PathBuf], target: &Path) -> anyhow::Result<()> {
    let mut archive = BufWriter::new(File::create(target)?);
    for file in files {
        let bytes = std::fs::read(staging.join(file))?;
        ustar::append(&mut archive, &file.to_string_lossy(), &bytes)?;
    }
    ustar::finish(&mut archive)?;
    std::io::Write::flush(&mut archive).context("writing the archive")
}

/// Tools that make file systems are often outside the path of ordinary users.
fn tool(name: &str) -> Command {
    let place = ["/usr/sbin", "/sbin"].iter().map(|folder| Path::new(folder).join(name));
    let found = place.into_iter().find(|path| path.is_file()).unwrap_or_else(|| name.into());
    let mut command = Command::new(found);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn runs(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes when this is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let folder = std::env::temp_dir().join(format!("netdisk-image-{}-{name}", std::process::id()));
            std::fs::create_dir_all(folder.join("staging")).unwrap();
            Scratch(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn pieces_cover_the_file_and_the_last_is_padded_with_zeroes() {
        let scratch = Scratch::new("pieces");
        let path = scratch.0.join("input");
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|index| (index % 251 + 1) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let image = Image::given(&path).unwrap();
        let (mut read, mut offset, mut chunk) = (Vec::new(), 0, Vec::new());
        while offset < image.padded_length() {
            let own = image.read_at(offset, &mut chunk).unwrap();
            assert!(chunk.len().is_multiple_of(BLOCK_BYTES) && !chunk.is_empty());
            assert!(chunk[own..].iter().all(|byte| *byte == 0));
            read.extend_from_slice(&chunk[..own]);
            offset += chunk.len() as u64;
        }
        assert!(read == bytes && offset == image.padded_length());
    }

    #[test]
    fn without_any_tool_the_files_become_a_tar_archive() {
        let scratch = Scratch::new("tar");
        std::fs::write(scratch.0.join("staging/one"), b"first").unwrap();
        let target = scratch.0.join("image");
        make_tar(&scratch.0.join("staging"), &["one".into()], &target).unwrap();
        let archive = std::fs::read(&target).unwrap();
        assert!(archive.starts_with(b"one\0") && archive[512..].starts_with(b"first\0"));
    }
}
