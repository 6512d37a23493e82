//! The ports to the other side, by their names.

use crate::{
    error::{Calling, LabError, format_error},
    message::{CONTROL, Request},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// The devices, by name.
pub struct Ports(BTreeMap<String, PathBuf>);

impl Ports {
    /// Looks which device has which name.
    pub fn find() -> Result<Self, LabError> {
        let class = Path::new("/sys/class/virtio-ports");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(class).on("list", class)?.flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            found.insert(name.trim().to_owned(), Path::new("/dev").join(entry.file_name()));
        }
        Ok(Self(found))
    }

    /// Opens one, which can be done once at a time.
    pub fn open(&self, name: &str) -> Result<File, LabError> {
        let path = self.0.get(name).ok_or_else(|| format_error(name, "there is no such port"))?;
        File::options().read(true).write(true).open(path).on("open", path)
    }

    /// Waits for the request; the port is then for the answer.
    pub fn request(&self) -> Result<(Request, File), LabError> {
        let control = self.open(CONTROL)?;
        let mut line = String::new();
        BufReader::new(&control).read_line(&mut line).calling(|| "read the request".to_owned())?;
        let request = serde_json::from_str(&line).map_err(|error| format_error("the request", error))?;
        Ok((request, control))
    }
}
