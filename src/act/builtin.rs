//! The built-in image: an image that holds this very binary and nothing else (and, where it is not static, the loader
//! and the libraries it runs with), made without a registry and without the internet.
#![expect(
    clippy::disallowed_methods,
    reason = "what is read here is this very program"
)]

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Repository of the built-in image; its tag is the version and a digest of the content.
pub const REPOSITORY: &str = "plancton-builtin";

pub fn name(tag: &str) -> String {
    format!("{REPOSITORY}:{tag}")
}

/// What the engine is told about the imported file system.
pub const CHANGES: [&str; 2] = ["ENTRYPOINT [\"/plancton\"]", "CMD [\"pilot\"]"];

/// Names the content: the version, and a digest of the files. Reads our own executable through /proc, so that an
/// upgrade under a running daemon does no harm. Errors: a file cannot be read.
pub fn tag() -> io::Result<String> {
    let mut digest = 0xcbf2_9ce4_8422_2325;
    let mut buffer = vec![0; 64 * 1024];
    for (_, file) in files()? {
        let mut file = fs::File::open(file)?;
        loop {
            let count = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            digest = fnv1a(digest, bytes);
        }
    }
    Ok(format!("{}-{digest:016x}", env!("CARGO_PKG_VERSION")))
}

/// The archive to be imported. Errors: a file cannot be read.
pub fn archive() -> io::Result<Vec<u8>> {
    let mut tar = Vec::new();
    for (inside, file) in files()? {
        append(&mut tar, &inside, &fs::read(file)?);
    }
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// Paths in the image, and where each is read from.
fn files() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let own = (PathBuf::from("plancton"), PathBuf::from("/proc/self/exe"));
    let inside = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    let libraries = libraries()?.into_iter().map(|path| (inside(&path), path));
    Ok(std::iter::once(own).chain(libraries).collect())
}

/// The loader and the shared libraries mapped into this process: none when the binary is static.
fn libraries() -> io::Result<Vec<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let exe = fs::read_link("/proc/self/exe")?;
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so") && path.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| *path != exe)
        .collect();
    // The loader is asked for by the name in the executable, which may be a link to the mapped file.
    if !paths.is_empty() {
        paths.extend(
            ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(PathBuf::from),
        );
        paths.retain(|path| path.exists());
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// One file as a ustar entry: 512 bytes of header, the content, zeros up to the next block.
fn append(tar: &mut Vec<u8>, path: &Path, content: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = header.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, path.as_os_str().as_encoded_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = header.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar.extend_from_slice(&header);
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_we_write() {
        let mut tar = Vec::new();
        append(&mut tar, Path::new("plancton"), b"binary");
        append(&mut tar, Path::new("lib/x.so"), &[7; 600]);
        tar.resize(tar.len() + 1024, 0);
        let file = std::env::temp_dir().join(format!("plancton-tar-{}", std::process::id()));
        fs::write(&file, &tar).unwrap();
        let listing = std::process::Command::new("tar")
            .arg("tvf")
            .arg(&file)
            .output()
            .unwrap();
        fs::remove_file(&file).unwrap();
        let text = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.status.success(), "{text}");
        assert!(
            text.contains("-rwxr-xr-x 0/0") && text.contains(" 600 ") && text.contains("lib/x.so"),
            "{text}"
        );
    }

    #[test]
    fn the_test_binary_brings_its_loader_along() {
        let archive = archive().unwrap();
        assert!(archive.len() > 100_000);
        assert!(tag().unwrap().starts_with(env!("CARGO_PKG_VERSION")));
        let loader = libraries().unwrap();
        assert!(
            loader.is_empty()
                || loader
                    .iter()
                    .any(|path| path.to_string_lossy().contains("ld-linux"))
        );
    }
}
