//! Reassembles the programs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lora_kernels_bundle::manifest::{BLOBS, Manifest, Program};

/// Unpacks all programs. This happens on every run, because an earlier run may have unpacked
/// another bundle.
pub fn unpack(bundle: &Path, manifest: &Manifest) -> Result<(), String> {
    for program in &manifest.programs {
        let path = bundle.join(&program.path);
        write(bundle, program, &path)
            .map_err(|error| format!("can't unpack {}: {error}", path.display()))?;
    }
    Ok(())
}

fn write(bundle: &Path, program: &Program, path: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(text)?;
    }
    // The file has another name until it is complete.
    let unfinished = path.with_extension("part");
    let mut file = fs::File::create(&unfinished).map_err(text)?;
    let mut bytes = 0;
    for part in &program.parts {
        let blob = bundle.join(BLOBS).join(part.to_string());
        let packed = fs::read(&blob).map_err(|error| format!("{}: {error}", blob.display()))?;
        let plain = lz4_flex::decompress_size_prepended(&packed);
        let plain = plain.map_err(|error| format!("{} is damaged: {error}", blob.display()))?;
        file.write_all(&plain).map_err(text)?;
        bytes += plain.len() as u64;
    }
    if bytes != program.bytes {
        return Err(format!(
            "its parts have {bytes} bytes, not {}: the bundle is damaged",
            program.bytes
        ));
    }
    file.set_permissions(fs::Permissions::from_mode(0o755))
        .map_err(text)?;
    // A program can't be started while it is open for writing.
    drop(file);
    fs::rename(&unfinished, path).map_err(text)
}
