//! The boundary of the sandbox: files, sockets and the private root.

use crate::place::{RunDir, program, text};
use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::MetadataExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    process::Command,
};

#[test]
fn command_in_sandbox_cannot_reach_host() {
    let place = RunDir::new();
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {}), 2)", loopback.local_addr().unwrap().port());
    let name = format!("agentd-test-{}", std::process::id());
    let _abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let knock = format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')");
    let key = place.root.path().join("home/.ssh/id_rsa").display().to_string();
    let refused: [&[&str]; 13] = [
        &["cat", "/etc/shadow"],
        &["cat", &key],
        &["ls", "/root"],
        &["unshare", "-Ur", "true"],
        &["mount", "-t", "tmpfs", "x", "/mnt"],
        &["sh", "-c", "ln -s / outside && cat outside/etc/shadow"],
        &["python3", "-c", &connect],
        &["dmesg"],
        &["python3", "-c", &knock],
        &["sh", "-c", "echo x > /etc/agentd-test"],
        &["sh", "-c", "echo x > /usr/local/agentd-test"],
        &["sh", "-c", "test -n \"$SECRET_TOKEN\""],
        &["sh", "-c", "kill -9 -1 2>/dev/null"],
    ];
    for command in refused {
        // Toolchains and caches of root lie in /root, which must stay hidden here.
        let output = place.run(&["--no-host-tools", "--no-host-caches"], command);
        assert!(!output.status.success(), "{command:?}: {output:?}");
    }
    // The parent directory of the workspace is private to the sandbox.
    place.sh("echo x > ../outside-the-workspace");
    assert!(!place.root.path().join("outside-the-workspace").exists());
}

/// Mounts an overlay of the host's root as the new root, and binds a socket in the root directory. Connects to the socket
/// without and with a sandbox. `$1` is a scratch directory, `$2` the program.
const BELOW_THE_ROOT: &str = r#"set -e
mount -t tmpfs tmpfs "$1"; cd "$1"; mkdir up work root
mount -t overlay -o lowerdir=/,upperdir=up,workdir=work overlay root
for place in proc dev sys tmp; do mount --rbind /$place root/$place; done
cp "$2" root/usr/agentd-under-test
cd root; mkdir old; pivot_root . old; cd /; umount -l old; rmdir old
exec python3 -c '
import os, socket, subprocess, sys
server = socket.socket(socket.AF_UNIX); server.bind("/below"); os.chmod("/below", 0o777); server.listen()
knock = ["python3", "-c", "import socket; socket.socket(socket.AF_UNIX).connect(\"/below\"); print(\"connected\")"]
for prefix in [], [sys.argv[1], "run", "--backend", "linux-native", "--workspace", "none", "--"]:
  print(subprocess.run([*prefix, *knock], capture_output=True, text=True).stdout.strip() or "refused")
' /usr/agentd-under-test
"#;

#[test]
fn bind_of_tcp_port_with_net_host_fails() {
    let place = RunDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "import errno, socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n\
         try: socket.socket().bind(('127.0.0.1', 0))\nexcept OSError as e: print(errno.errorcode[e.errno])"
    );
    let output = place.run(&["--net", "host"], &["python3", "-c", &script]);
    assert_eq!(text(&output.stdout), "EACCES\n", "{output:?}");
}

#[test]
fn container_root_is_writable_and_private() {
    let place = RunDir::new();
    let before = fs::read("/etc/passwd").unwrap();
    let output = place.run(&["--backend", "container"], &["sh", "-c", "id -u; touch /x && rm -rf /etc/passwd && echo ok"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("0\nok\n", Some(0)), "{output:?}");
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!Path::new("/x").exists());
    // Without a workspace, the command starts in a private home directory.
    let output = place.run(&["--backend", "container", "--workspace", "none"], &["sh", "-c", "pwd; cd && echo x > f && cat f"]);
    assert_eq!(text(&output.stdout), "/root\nx\n", "{output:?}");
    // Files created in the workspace belong to the caller.
    assert!(place.run(&["--backend", "container"], &["touch", "made"]).status.success());
    assert_eq!(fs::metadata(place.work().join("made")).unwrap().uid(), rustix::process::geteuid().as_raw());
}

/// Tests that need root. An ordinary user skips them: `--skip as_root::`.
mod as_root {
    use super::*;

    // Only root can create a socket in the root directory.
    #[test]
    fn connect_to_socket_in_root_directory_fails() {
        let place = RunDir::new();
        let (directory, program) = (place.work().display().to_string(), program());
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-c", BELOW_THE_ROOT, "sh", &directory, &program]);
        let output = shell.env("HOME", "/nowhere").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
        assert_eq!(text(&output.stdout), "connected\nrefused\n", "{output:?}");
    }
}
