//! `agentd image`: manages the images for `agentd run --image`.

use super::{
    args::ImageCommand,
    data,
    failure::{CANNOT, Failure},
    terminal::Progress,
    writer,
};
pub(crate) use agentd_image::Image;
use agentd_image::{Hold, Reference, Store};
use agentd_sandboxes::SandboxStore;
use std::{io::Write, path::PathBuf};

/// Opens the image store.
///
/// # Errors
/// If there is no data folder, or the store cannot be opened.
pub(crate) fn store() -> Result<Store, Failure> {
    Ok(Store::open(&data::folder()?.join("images"))?)
}

/// Runs one of the `agentd image` commands.
pub(crate) async fn image(command: &ImageCommand) -> Result<u8, Failure> {
    let store = store()?;
    let mut out = std::io::stdout().lock();
    match command {
        ImageCommand::Pull { reference } => {
            let waiting = Progress::show("pulling");
            let image = store.pull(reference, |_| ()).await?;
            drop(waiting);
            writeln!(out, "{}", line(&image))?;
            report_skipped_entries(&image);
        }
        ImageCommand::Import { source, reference } => {
            let waiting = Progress::show("importing");
            let image = store.import(source, reference)?;
            drop(waiting);
            writeln!(out, "{}", line(&image))?;
            report_skipped_entries(&image);
        }
        ImageCommand::Ls { json } => {
            let images = store.images()?;
            let good = images.iter().filter_map(|image| image.as_ref().ok());
            if *json {
                writeln!(out, "{:#}", serde_json::Value::from_iter(good.map(describe)))?;
            } else {
                good.map(line).try_for_each(|line| writeln!(out, "{line}"))?;
            }
            let damaged = images.iter().filter_map(|image| image.as_ref().err());
            if damaged.map(|error| writer::message(format_args!("{error}"))).count() > 0 {
                return Ok(CANNOT);
            }
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                store.remove(reference)?;
            }
        }
        ImageCommand::Gc => {
            let gone = store.gc(layers)?;
            let (layers, blobs) = (count(gone.layers as u64, "layer"), count(gone.blobs as u64, "blob"));
            writeln!(out, "{layers} and {blobs} removed, {} freed", megabytes(gone.bytes))?;
        }
    }
    Ok(0)
}

/// Returns the image layers that named sandboxes need.
fn layers() -> Result<Vec<PathBuf>, Failure> {
    let folder = data::sandboxes()?;
    if !folder.exists() {
        return Ok(Vec::new());
    }
    Ok(SandboxStore::open(&folder)?.needed_image_layers()?)
}

fn line(image: &Image) -> String {
    let digest = image.digest.to_string();
    let short = digest.get(..19).unwrap_or(&digest);
    format!("{:<48} {short:<20} {:>3} layers {:>10}", image.reference.to_string(), image.layers.len(), megabytes(image.size))
}

fn report_skipped_entries(image: &Image) {
    if let Some(what) = left_out(image.skipped_devices, image.skipped_attributes) {
        writer::message(format_args!("{what}"));
    }
}

fn left_out(devices: u64, attributes: u64) -> Option<String> {
    let all = [(devices, "device node"), (attributes, "extended attribute")];
    let some: Vec<_> = all.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(number, what)).collect();
    (!some.is_empty()).then(|| format!("not imported: {}", some.join(", ")))
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn describe(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "reference": image.reference.to_string(),
        "digest": image.digest.to_string(),
        "layers": image.layers.len(),
        "bytes": image.size,
    })
}

/// Returns the image with this reference.
///
/// # Errors
/// If there is no such image, or the store cannot be opened.
pub(crate) fn find(reference: &Reference) -> Result<Image, Failure> {
    Ok(store()?.image(reference)?)
}

/// Returns an image that is in use: its layers are not collected while the hold exists.
///
/// # Errors
/// As for [`find`].
pub(crate) fn hold(reference: &Reference) -> Result<(Image, Hold), Failure> {
    let store = store()?;
    let image = store.image(reference)?;
    let hold = store.hold(&image)?;
    Ok((image, hold))
}

#[cfg(test)]
mod tests {
    use super::left_out;

    #[test]
    fn skipped_entries_are_reported_and_none_is_silent() {
        assert_eq!(left_out(3, 2).as_deref(), Some("not imported: 3 device nodes, 2 extended attributes"));
        assert_eq!(left_out(1, 0).as_deref(), Some("not imported: 1 device node"));
        assert_eq!(left_out(0, 1).as_deref(), Some("not imported: 1 extended attribute"));
        assert_eq!(left_out(0, 0), None);
    }
}
