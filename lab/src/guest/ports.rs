//! The virtio ports to the host, by name.

use crate::{
    error::{Calling, LabError, format_error},
    message::{CONTROL, CommandRequest, PULSE},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    thread,
};

/// The devices, by the name of their port.
pub struct Ports(BTreeMap<String, PathBuf>);

impl Ports {
    /// Finds the device of each port.
    pub fn find() -> Result<Self, LabError> {
        let class = Path::new("/sys/class/virtio-ports");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(class).on("list", class)?.flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            found.insert(name.trim().to_owned(), Path::new("/dev").join(entry.file_name()));
        }
        Ok(Self(found))
    }

    /// Opens a port. A port can be open only once at a time.
    pub fn open(&self, name: &str) -> Result<File, LabError> {
        let path = self.0.get(name).ok_or_else(|| format_error(name, "the machine has no port of this name"))?;
        File::options().read(true).write(true).open(path).on("open", path)
    }

    /// Reads the host's pulse as long as the machine runs. Only the interrupts matter; the bytes are discarded.
    pub fn take_pulse(&self) -> Result<(), LabError> {
        let mut pulse = self.open(PULSE)?;
        thread::spawn(move || while let Ok(1..) = pulse.read(&mut [0; 64]) {});
        Ok(())
    }

    /// Waits for the request. Returns it with the port, on which the reply is sent.
    pub fn request(&self) -> Result<(CommandRequest, File), LabError> {
        let control = self.open(CONTROL)?;
        let mut line = String::new();
        BufReader::new(&control).read_line(&mut line).calling(|| "read the request".to_owned())?;
        let request = serde_json::from_str(&line).map_err(|error| format_error("the request", error))?;
        Ok((request, control))
    }
}
