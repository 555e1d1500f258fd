//! Writes the listings of `docs/api`.

fn main() -> Result<(), String> {
    for (path, text) in zqc_api::listings()? {
        let folder = path.parent().unwrap_or(&path);
        let write = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        write.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
