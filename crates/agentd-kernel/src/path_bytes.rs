//! Serde adapters that encode paths as bytes: serde encodes a path as text, and fails for a path that is not UTF-8.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// One path.
pub mod one {
    use super::*;

    /// Serializes the path as bytes.
    ///
    /// # Errors
    /// The error of `serializer`.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    /// Deserializes the path from bytes.
    ///
    /// # Errors
    /// The error of `deserializer`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// A path, or none.
pub mod maybe {
    use super::*;

    /// Serializes the path as bytes.
    ///
    /// # Errors
    /// The error of `serializer`.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(serializer)
    }

    /// Deserializes the path from bytes.
    ///
    /// # Errors
    /// The error of `deserializer`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes).into()))
    }
}

/// A list of paths.
pub mod many {
    use super::*;

    /// Serializes each path as bytes.
    ///
    /// # Errors
    /// The error of `serializer`.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| path.as_os_str().as_bytes()))
    }

    /// Deserializes each path from bytes.
    ///
    /// # Errors
    /// The error of `deserializer`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let list = Vec::<Vec<u8>>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|bytes| OsString::from_vec(bytes).into()).collect())
    }
}

/// A list of pairs of paths.
pub mod pairs {
    use super::*;

    /// Serializes both paths of each pair as bytes.
    ///
    /// # Errors
    /// The error of `serializer`.
    pub fn serialize<S: Serializer>(pairs: &[(PathBuf, PathBuf)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pairs.iter().map(|(a, b)| (a.as_os_str().as_bytes(), b.as_os_str().as_bytes())))
    }

    /// Deserializes both paths of each pair from bytes.
    ///
    /// # Errors
    /// The error of `deserializer`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(PathBuf, PathBuf)>, D::Error> {
        let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
        let list = Vec::<(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|(a, b)| (path(a), path(b))).collect())
    }
}
