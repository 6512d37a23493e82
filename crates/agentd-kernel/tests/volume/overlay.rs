//! Tests an id-mapped volume as the upper layer of an overlay that is mounted in a user namespace, as for a sandbox's root.

use crate::place::ImageFileDir;
use agentd_kernel::idmap;
use rustix::{
    fs::{CWD, Mode},
    mount::MoveMountFlags,
};
use std::{
    fs,
    os::fd::AsFd,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    process::Command,
};

/// The host id of root in the sandbox.
const HOST_ID: u32 = 70_000;

/// Mounts the overlay in the directory `$1` and changes files of the lower layer.
const SCRIPT: &str = r#"set -e
cd "$1"
mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=mapped/upper,workdir=mapped/work merged
cd merged
test "$(id -u)" = 0
echo changed > below
rm gone
rm -r directory && mkdir directory
touch set-id && chmod 4755 set-id && ln set-id hard
cat below && ls directory && stat -c '%a %u %h' set-id
"#;

/// Like a launcher, id-maps the volume before attaching it.
pub fn upper_layer() {
    let place = ImageFileDir::new();
    let Some(volume) = place.open() else { return };
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&volume, name, Mode::from(0o755)).unwrap();
    }
    let users = idmap::mapping((0, 0), (HOST_ID, HOST_ID), 1).unwrap();
    idmap::map(volume.as_fd(), &place.image(), &users).unwrap();
    fs::create_dir(place.path("mapped")).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&volume, c"", CWD, place.path("mapped"), flags).unwrap();
    assert_eq!(fs::metadata(place.path("mapped/upper")).unwrap().uid(), HOST_ID);
    lay_out(&place);

    let id = HOST_ID.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "unshare", "--user", "--map-root-user", "--mount"]);
    let output = command.args(["sh", "-c", SCRIPT, "sh"]).arg(place.path("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "changed\n4755 0 2\n", "{output:?}");

    volume.detach().unwrap();
    // The lower layer is unchanged, and the changes are in the volume with the ids from inside.
    assert_eq!(fs::read_to_string(place.path("lower/below")).unwrap(), "of the image\n");
    assert!(place.path("lower/gone").exists() && place.path("lower/directory/file").exists());
    let volume = place.attach().unwrap();
    let written = fs::metadata(place.mount().join("upper/set-id")).unwrap();
    assert_eq!((written.uid(), written.mode() & 0o7777, written.nlink()), (0, 0o4755, 2));
    assert_eq!(fs::read_to_string(place.mount().join("upper/below")).unwrap(), "changed\n");
    volume.detach().unwrap();
}

/// Creates the lower layer, which belongs to root in the sandbox, and the mount point of the overlay.
fn lay_out(place: &ImageFileDir) {
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["lower/directory", "merged"] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    for file in ["below", "gone", "directory/file"] {
        fs::write(place.path("lower").join(file), "of the image\n").unwrap();
    }
    for name in ["", "below", "gone", "directory", "directory/file"] {
        chown(place.path("lower").join(name), Some(HOST_ID), Some(HOST_ID)).unwrap();
    }
}
