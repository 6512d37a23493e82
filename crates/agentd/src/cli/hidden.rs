//! Notes about programs that exist on the host but not in the sandbox: the path to which a program leads, and the option that
//! grants the program.
//!
//! The usual case is `.venv/bin/python`: a link in the workspace to an interpreter below the user's home, which sandboxes do not
//! show.

use super::writer;
use std::{
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Interpreters of virtual environments, below the working directory.
const ENVIRONMENTS: [&str; 2] = [".venv/bin/python", "venv/bin/python"];
/// Number of bytes of a script's first line that the kernel reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;

/// Prints the path to which a program leads, if the sandbox did not find that program because the path is hidden.
pub(crate) fn note(program: &str) {
    if let Some(target) = on_host(program).and_then(|path| hidden_target(&path)) {
        writer::message(format_args!(
            "note: {program} leads to {}, which is not visible in the sandbox — use --ro {}",
            target.display(),
            prefix(&target).display()
        ));
    }
}

/// Prints such a note for the interpreters of virtual environments, after a command ended with "not found" (`sh(1p)`).
pub(crate) fn note_of_environments() {
    ENVIRONMENTS.into_iter().for_each(note);
}

/// Returns the path under which a shell on the host would find the program.
fn on_host(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return std::env::current_dir().ok().map(|here| here.join(program));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Returns the path to which the program leads or, for a script, its interpreter; `None` if every sandbox shows that path.
fn hidden_target(path: &Path) -> Option<PathBuf> {
    let target = path.canonicalize().ok()?;
    let is_link = target != path.parent()?.canonicalize().ok()?.join(path.file_name()?);
    let named = if is_link { target } else { interpreter(&target).map_or(Some(target), |script| script.canonicalize().ok())? };
    let is_shown = agentd_isolation::SYSTEM_DIRECTORIES.iter().any(|shown| named.starts_with(shown));
    (!is_shown).then_some(named)
}

/// Returns the interpreter of a script (`execve(2)`).
fn interpreter(script: &Path) -> Option<PathBuf> {
    // Non-blocking, because the path may have become a FIFO.
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(script).ok()?;
    let mut line = Vec::new();
    file.take(FIRST_LINE).read_to_end(&mut line).ok()?;
    let text = String::from_utf8_lossy(&line).into_owned();
    let named = text.lines().next()?.strip_prefix("#!")?.split_ascii_whitespace().next()?;
    Some(PathBuf::from(named))
}

/// Returns the directory to grant for a program: the parent of its `bin` directory, which also has the libraries. Never proposes
/// the home directory or a top-level directory.
fn prefix(program: &Path) -> &Path {
    let folder = program.parent().unwrap_or(program);
    let above = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == "bin"));
    let home = std::env::home_dir().and_then(|home| home.canonicalize().ok());
    above.filter(|above| above.components().count() > 2 && home.as_deref() != Some(above)).unwrap_or(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn hidden_target_of_link_or_script_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let python = root.join("python/bin/python3");
        std::fs::create_dir_all(python.parent().unwrap()).unwrap();
        std::fs::create_dir(root.join("venv")).unwrap();
        std::fs::write(&python, "").unwrap();
        symlink(&python, root.join("venv/python")).unwrap();
        std::fs::write(root.join("venv/pytest"), format!("#!{}\n", root.join("venv/python").display())).unwrap();
        std::fs::write(root.join("venv/shown"), "#!/usr/bin/env -S x\n").unwrap();
        for name in ["python", "pytest"] {
            assert_eq!(hidden_target(&root.join("venv").join(name)), Some(python.clone()), "{name}");
        }
        assert_eq!(hidden_target(&root.join("venv/shown")), None);
        assert_eq!(hidden_target(&root.join("venv/missing")), None);
        assert_eq!(prefix(&python), root.join("python"));
    }

    #[test]
    fn directory_as_wide_as_a_home_is_not_proposed() {
        assert_eq!(prefix(Path::new("/opt/bin/tool")), Path::new("/opt/bin"));
        assert_eq!(prefix(Path::new("/data/tools/tool")), Path::new("/data/tools"));
    }
}
