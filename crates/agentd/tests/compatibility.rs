//! Ordinary programs behave in a sandbox as outside, in each backend that shares the host's kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

#[path = "compatibility/table.rs"]
mod table;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use table::As;
use tempfile::TempDir;

const BACKENDS: [&str; 2] = ["linux-native", "container"];

/// Calls `look` for each backend, and reports its observations as the row of a test.
#[track_caller]
fn row(test: &str, programs: &str, look: impl Fn(&'static str) -> String) {
    let seen: Vec<_> = BACKENDS.into_iter().map(|backend| (backend, As::caller(), look(backend))).collect();
    table::report(test, programs, &seen);
}

/// A home directory with a workspace in it.
struct ProjectDir(TempDir);

impl ProjectDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.work()).unwrap();
        place
    }

    fn home(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("home")
    }

    fn work(&self) -> PathBuf {
        self.home().join("work")
    }

    /// Runs a program under `agentd run` with the given options.
    fn run(&self, backend: &str, options: &[&str], command: &[&str]) -> Output {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut run = Command::new(program);
        run.args(["run", "--backend", backend]).args(options).arg("--").args(command);
        run.current_dir(self.work()).env("HOME", self.home()).env("XDG_CACHE_HOME", cache).stdin(Stdio::null());
        run.output().unwrap()
    }

    /// Runs a script that must succeed, and returns its output.
    #[track_caller]
    fn sh(&self, backend: &str, options: &[&str], script: &str) -> String {
        let output = self.run(backend, options, &["sh", "-c", script]);
        assert!(output.status.success(), "{backend}: {script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn package_managers_without_network_fail_at_once() {
    let place = ProjectDir::new();
    row("package_managers_without_network_fail_at_once", "pip, Node's DNS, without a network", |backend| {
        let pip =
            ["/usr/bin/python3", "-m", "pip", "download", "--no-cache-dir", "--index-url", "https://index.example/simple", "x"];
        let output = place.run(backend, &[], &pip);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("No matching distribution") && !said.contains("Retrying"), "{said}");
        let node = "require('dns').lookup('registry.example', error => console.log(error.code))";
        assert_eq!(String::from_utf8_lossy(&place.run(backend, &[], &["node", "-e", node]).stdout), "ENOTFOUND\n");
        "fail at once".to_owned()
    });
}

#[test]
fn programs_find_their_user_home_and_host() {
    let place = ProjectDir::new();
    let programs = "`getent`, `hostname -i`, Node's `os.userInfo`, Python's `pwd` and `socket.getfqdn`";
    row("programs_find_their_user_home_and_host", programs, |backend| {
        let said = place.sh(
            backend,
            &[],
            "set -e; getent passwd $(id -u) | cut -d: -f6; echo ~; getent hosts $(hostname) | cut -d' ' -f1; hostname -i; \
             node -p 'os.userInfo().homedir'; \
             /usr/bin/python3 -c 'import os, pwd, socket; print(pwd.getpwuid(os.getuid()).pw_dir, \
             socket.gethostbyname(socket.getfqdn()))'",
        );
        let home = said.lines().next().unwrap().to_owned();
        assert!(home.starts_with("/home/") || home == "/root", "{said}");
        assert_eq!(said, format!("{home}\n{home}\n127.0.0.1\n127.0.0.1\n{home}\n{home} 127.0.0.1\n"), "{backend}");
        let uid = place.sh(backend, &[], "id -u");
        format!("find the user and the host; home `{home}`, {}", if uid == "0\n" { "uid 0" } else { "not uid 0" })
    });
}

#[test]
fn host_programs_find_their_configuration() {
    let place = ProjectDir::new();
    let programs = "OpenSSL, `getent services`, other programs that read `/etc`";
    row("host_programs_find_their_configuration", programs, |backend| {
        let same = "for f in /etc/ssl/openssl.cnf /etc/services /etc/mime.types /etc/login.defs; do test ! -e $f || cat $f; done";
        let outside = Command::new("sh").args(["-c", same]).output().unwrap();
        assert_eq!(place.sh(backend, &[], same).into_bytes(), outside.stdout, "{backend}");
        assert_eq!(
            place.sh(backend, &[], "getent services https | tr -s ' '; getent protocols tcp | tr -s ' '").lines().count(),
            2
        );
        let change =
            "touch /etc/new && echo add; cp --preserve=mode /etc/services /etc/x && mv /etc/x /etc/services && echo replace
                      echo >> /etc/protocols && echo \"change in place\"; true";
        let said = place.sh(backend, &[], &format!("{{ {change}; }} 2>/dev/null"));
        let changes = said.lines().collect::<Vec<_>>().join(", ");
        format!("as outside; {}", if changes.is_empty() { "read-only".to_owned() } else { format!("can {changes}") })
    });
}

#[test]
fn root_directory_is_listed_and_hidden_directories_are_empty() {
    let place = ProjectDir::new();
    // Without these options the home directories contain the caller's toolchains and caches.
    let hidden = ["--no-host-tools", "--no-host-caches"];
    row("root_directory_is_listed_and_hidden_directories_are_empty", "`ls /`, `ls /root /var /home`", |backend| {
        let said = place.sh(backend, &[], "ls /");
        assert!(["usr", "etc", "tmp", "proc"].iter().all(|name| said.lines().any(|line| line == *name)), "{backend}: {said}");
        let listed =
            place.sh(backend, &hidden, "for d in /root /var /srv /run /home /lost+found; do ls -A $d; done 2>/dev/null; true");
        let own = ["agent", "home", "tmp", "work", ".local"];
        assert!(listed.lines().all(|name| own.contains(&name)), "{backend}: {listed}");
        let can_list_srv = place.run(backend, &hidden, &["ls", "/srv"]).status.success();
        format!("can be listed; other hidden directories {}", if can_list_srv { "are empty" } else { "cannot" })
    });
}

#[test]
fn workspace_given_as_link_is_accessible_by_both_paths() {
    let place = ProjectDir::new();
    let data = place.0.path().canonicalize().unwrap().join("data");
    fs::create_dir_all(data.join("project/build")).unwrap();
    fs::write(data.join("project/file"), "here").unwrap();
    let link = place.home().join("proj");
    symlink(data.join("project"), &link).unwrap();
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let programs = "CMake and others that remember a path through a link";
    row("workspace_given_as_link_is_accessible_by_both_paths", programs, |backend| {
        let script = format!(
            "cat {0}/file {1}/file && cd {0}/build && touch made && rm {1}/build/made",
            link.display(),
            data.join("project").display()
        );
        // The link is given with --workspace once, and is the current directory once.
        assert_eq!(place.sh(backend, &["--workspace", link.to_str().unwrap()], &script), "herehere", "{backend}");
        let mut shell = Command::new("sh");
        shell.args(["-c", "cd \"$1\" && exec \"$2\" run --backend \"$3\" -- sh -c \"$4\"", "sh"]);
        let output = shell.args([link.to_str().unwrap(), &program, backend, &script]).env("HOME", place.home()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "herehere", "{backend}: {output:?}");
        "both names work".to_owned()
    });
}

#[test]
fn set_gid_directories_keep_their_mode() {
    let place = ProjectDir::new();
    let programs = "`chmod -R`, `cp -a`, `tar xp`, `mkdir -m 2775`, `git init --shared` with set-group-id directories";
    row("set_gid_directories_keep_their_mode", programs, |backend| {
        let said = place.sh(
            backend,
            &[],
            "set -e; rm -rf *; mkdir -m 2775 made; mkdir made/inner; chmod 2750 made/inner; chmod -R g+w made; cp -a made copy
             tar cf t.tar made; rm -r made; tar xpf t.tar; git init --quiet --shared repository; touch file
             stat -c '%a %n' made made/inner copy copy/inner repository/.git/refs; chmod 2755 file 2>&1 || stat -c %a file",
        );
        let expected = "2775 made\n2770 made/inner\n2775 copy\n2770 copy/inner\n2775 repository/.git/refs\n\
                        chmod: changing permissions of 'file': Operation not permitted\n644\n";
        assert_eq!(said, expected, "{backend}");
        "as outside; a file gets no set-id bit".to_owned()
    });
}

#[test]
fn scheduling_tools_change_processes_of_their_own_command() {
    let place = ProjectDir::new();
    let programs = "`nice`, `chrt`, `taskset`, `ionice`, `renice`";
    row("scheduling_tools_change_processes_of_their_own_command", programs, |backend| {
        let said = place.sh(
            backend,
            &[],
            "set -e; nice -n 3 nice; taskset -c 0 nproc; chrt --idle 0 true; ionice -c 3 true
             sleep 100 & child=$!; setsid sleep 100 & other=$!
             renice -n 4 -p $child >renice; taskset -cp 0 $child >taskset; chrt --batch -p 0 $child; ionice -c 3 -p $child
             taskset -cp 0 $$ >taskset; renice -n 2 -p $other >renice; taskset -cp $child | cut -d: -f2; ionice -p $child
             cut -d' ' -f19 /proc/$child/stat; kill $child $other
             renice -n 5 -p 1 2>&1 || true",
        );
        let expected = "3\n1\n 0\nidle\n4\nrenice: failed to set priority for 1 (process ID): Operation not permitted\n";
        assert_eq!(said, expected, "{backend}");
        "work on a command's own processes".to_owned()
    });
}

#[test]
fn missing_interpreter_in_home_is_named_with_ro_option() {
    let place = ProjectDir::new();
    let tools = place.home().join("python/bin");
    fs::create_dir_all(&tools).unwrap();
    fs::create_dir_all(place.work().join(".venv/bin")).unwrap();
    fs::copy("/bin/echo", tools.join("python3")).unwrap();
    symlink(tools.join("python3"), place.work().join(".venv/bin/python")).unwrap();
    fs::write(place.work().join("script"), format!("#!{}/.venv/bin/python\n", place.work().display())).unwrap();
    fs::set_permissions(place.work().join("script"), PermissionsExt::from_mode(0o755)).unwrap();
    let option = place.home().join("python");
    let programs = "`.venv/bin/python` whose interpreter is in the home";
    row("missing_interpreter_in_home_is_named_with_ro_option", programs, |backend| {
        for program in [&[".venv/bin/python", "ran"][..], &["./script"], &["sh", "-c", ".venv/bin/python ran"]] {
            let output = place.run(backend, &[], program);
            let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(output.status.code(), Some(127), "{backend}: {program:?}: {said}");
            let expected =
                format!("leads to {}/bin/python3, which is not visible in the sandbox — use --ro {0}", option.display());
            assert!(said.contains(&expected), "{backend}: {program:?}: {said}");
            let output = place.run(backend, &["--ro", option.to_str().unwrap()], program);
            assert!(output.status.success(), "{backend}: {program:?}: {output:?}");
        }
        "127, and a note names the `--ro` that shows it".to_owned()
    });
}

#[test]
fn sanitizers_run_and_leak_check_needs_permissive_profile() {
    let place = ProjectDir::new();
    fs::write(place.work().join("main.c"), "int main(void) { return 0; }").unwrap();
    for sanitizer in ["address", "thread"] {
        let mut compiler = Command::new("gcc");
        compiler.arg(format!("-fsanitize={sanitizer}")).args(["main.c", "-o", sanitizer]).current_dir(place.work());
        assert!(compiler.status().unwrap().success());
    }
    let programs = "programs with AddressSanitizer or ThreadSanitizer, `ulimit -c 0`";
    row("sanitizers_run_and_leak_check_needs_permissive_profile", programs, |backend| {
        place.sh(backend, &[], "ulimit -c 0 && ./thread && ASAN_OPTIONS=detect_leaks=0 ./address");
        place.sh(backend, &["--profile", "permissive"], "./address");
        // `docs/compatibility.md` lists the leak check as not working.
        assert_eq!(place.run(backend, &[], &["./address"]).status.code(), Some(1), "{backend}");
        "run; the leak check only with `--profile permissive`".to_owned()
    });
}

/// Runs a script in a new mount namespace, where it may change the file tree; `$AGENTD` is the program.
fn on_another_host(place: &Path, script: &str) -> Output {
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script]).current_dir(place).env("AGENTD", program);
    unshare.env("PLACE", place).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn compatibility_table_names_every_test() {
    let named = table::named();
    let source = include_str!("compatibility.rs");
    let tests = source.split("#[test]\n").skip(1).filter_map(|test| test.split_once('(')?.0.trim_start().strip_prefix("fn "));
    let tests: Vec<&str> = tests.collect();
    let own = "compatibility_table_names_every_test";
    assert!(named.len() > 5 && named.iter().all(|name| tests.contains(name)), "{named:?}");
    assert!(tests.iter().all(|test| *test == own || named.contains(test)), "{tests:?}");
}

/// Tests that need root. An ordinary user skips them: `--skip as_root::`.
mod as_root {
    use super::*;

    #[test]
    fn home_that_is_a_link_in_root_directory_works() {
        let place = tempfile::tempdir().unwrap();
        let output = on_another_host(
            place.path(),
            "mount -t tmpfs -o mode=755 new \"$PLACE\"; cd \"$PLACE\"; cp \"$AGENTD\" agentd; \
         mkdir -p old var/home/u/work tmp proc sys dev run; chmod 1777 tmp
         ln -s var/home home; chown -R 65534:65534 var/home/u
         for d in usr etc opt bin sbin lib lib64; do if [ -L /$d ]; then cp -P /$d $d; elif [ -d /$d ]; then mkdir -p $d; \
             mount --rbind /$d $d; fi; done
         for d in proc sys dev; do mount --rbind /$d $d; done
         pivot_root . old; umount -l /old; cd /home/u/work
         for user in 0 65534; do for backend in linux-native container; do
             setpriv --reuid $user --regid $user --clear-groups env HOME=/home/u XDG_CACHE_HOME=/tmp/c$user /agentd run \
                 --backend $backend -- sh -c 'touch ~/x /home/u/work/made && ls /home/u/work /var/home/u/work && \
                 getent passwd $(id -u) | cut -d: -f6 && echo ~'
         done; done",
        );
        let said = String::from_utf8_lossy(&output.stdout);
        let each: Vec<_> = said.split("/home/u/work:\nmade\n\n/var/home/u/work:\nmade\n").skip(1).collect();
        let homes = each.iter().map(|said| said.lines().collect::<Vec<_>>());
        let words = homes.map(|homes| match homes[..] {
            [home, same] if home == same => format!("both names work; home `{home}`"),
            _ => panic!("{output:?}"),
        });
        let order = [As::Root, As::User].into_iter().flat_map(|user| BACKENDS.map(|backend| (backend, user)));
        let seen: Vec<_> = order.zip(words).map(|((backend, user), words)| (backend, user, words)).collect();
        assert_eq!(seen.len(), 4, "{output:?}");
        table::report("home_that_is_a_link_in_root_directory_works", "a home in `/var/home` with a link in `/home`", &seen);
    }

    #[test]
    fn workspace_on_overlayfs_fails_with_remedy_and_tools_there_are_hidden() {
        let place = tempfile::tempdir().unwrap();
        let script =
            "mount -t tmpfs new \"$PLACE\"; cd \"$PLACE\"; mkdir low up work home volume; mkdir -p low/.cargo/bin low/project
         mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay home
         export HOME=$PWD/home PATH=$PWD/home/.cargo/bin:$PATH XDG_CACHE_HOME=$PWD/cache
         cd volume; $AGENTD run --backend $BACKEND -- echo ran
         cd ../home/project; $AGENTD run --backend $BACKEND -- echo ran || true";
        let test = "workspace_on_overlayfs_fails_with_remedy_and_tools_there_are_hidden";
        row(test, "a dev container, whose files are on overlayfs", |backend| {
            let output = on_another_host(place.path(), &format!("BACKEND={backend}; {script}"));
            let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(said, "ran\n", "{backend}: {error}");
            assert!(
                error.contains("/home/project") && error.contains("overlayfs") && !error.contains(".cargo"),
                "{backend}: {error}"
            );
            "a workspace on a volume works; one on overlayfs is refused".to_owned()
        });
    }
}
