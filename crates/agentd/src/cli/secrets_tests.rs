use super::*;

const VALUE: &str = "the-real-value-0123456789";

fn read(option: &str) -> Result<ReadSecrets, String> {
    ReadSecrets::read(&[option.into()]).map_err(|error| error.to_string())
}

#[test]
fn value_is_read_from_a_file_without_its_line_end() {
    let place = tempfile::tempdir().unwrap();
    for (content, value) in [(format!("{VALUE}\n"), VALUE), (format!("{VALUE}\r\n"), VALUE), (VALUE.to_owned(), VALUE)] {
        let path = place.path().join("key");
        std::fs::write(&path, content).unwrap();
        let secrets = read(&format!("KEY@a.example=file:{}", path.display())).unwrap().secrets;
        assert_eq!((secrets[0].target.as_str(), secrets[0].value()), ("KEY@a.example", value));
    }
}

#[test]
fn malformed_options_are_errors_that_do_not_repeat_them() {
    for option in [
        VALUE.to_owned(),
        format!("KEY={VALUE}"),
        format!("KEY@a.example={VALUE}"),
        format!("{VALUE}@a.example=env:X"),
        format!("KEY@a.example=env:{VALUE}"),
        format!("KEY@a.example=file:/{VALUE}"),
        format!("KEY@a.example=file:{VALUE}"),
        format!("KEY@a.example=fd:{VALUE}"),
        "KEY@a.example=fd:60000".to_owned(),
        "KEY@a.example=file:/dev/null".to_owned(),
        "KEY@a.example=file:/".to_owned(),
    ] {
        let Err(error) = read(&option) else { panic!("{option}") };
        assert!(error.contains(" — ") || error.contains("expected NAME@HOST"), "{option}: {error}");
        assert!(!error.contains(VALUE), "{option}: {error}");
    }
}

#[test]
fn value_that_the_command_would_get_anyway_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    std::fs::write(place.join("key"), VALUE).unwrap();
    std::os::unix::fs::symlink(place.join("key"), place.join("link")).unwrap();
    let spec = |granted: &str| SandboxSpec {
        grants: vec![agentd_core::Grant::new(place.join(granted), agentd_core::Access::ReadOnly)],
        ..SandboxSpec::default()
    };
    let (plain, own) =
        (Command::default(), Command { env: vec![("A".into(), format!("x{VALUE}").into())], ..Command::default() });
    let argument = Command { argv: vec![format!("--key={VALUE}").into()], ..Command::default() };
    for (file, granted, command, set, reason) in [
        ("key", "", &plain, "", "the command could read the file"),
        ("link", "key", &plain, "", "the command could read the file"),
        ("key", "other", &own, "", "the variable A of the command also contains the value"),
        ("key", "other", &argument, "", "the arguments of the command also contain the value"),
        ("key", "other", &plain, "KEY=x", "--env sets the same variable"),
    ] {
        let secrets = read(&format!("KEY@a.example=file:{}", place.join(file).display())).unwrap();
        let error = secrets.add_to(&mut spec(granted), command, &[set.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains(VALUE), "{error}");
    }
    let mut accepted = spec("other");
    let secrets = read(&format!("KEY@a.example=file:{}", place.join("key").display())).unwrap();
    secrets.add_to(&mut accepted, &plain, &["KEYS=x".to_owned()]).unwrap();
    assert_eq!(accepted.secrets.len(), 1);
}

#[test]
fn file_in_a_system_directory_is_refused_unless_an_image_replaces_it() {
    let spec = |root| SandboxSpec { root, ..SandboxSpec::default() };
    let secrets = ReadSecrets { secrets: Vec::new(), places: vec![("KEY".to_owned(), vec!["/etc/own/key".into()])] };
    let error = secrets.add_to(&mut spec(Root::Host), &Command::default(), &[]).unwrap_err().to_string();
    assert!(error.contains("in a system directory, which the sandbox shows — move it"), "{error}");
    assert!(secrets.add_to(&mut spec(Root::Layers(Vec::new())), &Command::default(), &[]).is_ok());
}

#[test]
fn file_is_for_everybody_if_its_mode_and_its_directories_say_so() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let place = place.path().canonicalize().unwrap();
    fs::create_dir(place.join("folder")).unwrap();
    let file = place.join("folder/key");
    fs::write(&file, VALUE).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&place, 0o755);
    for (of_file, of_folder, everybody) in
        [(0o644, 0o755, true), (0o604, 0o711, true), (0o640, 0o755, false), (0o644, 0o750, false)]
    {
        mode(&file, of_file);
        mode(&place.join("folder"), of_folder);
        let found = is_for_everybody(&file.metadata().unwrap(), &[place.join("other"), file.clone()]);
        assert_eq!(found, everybody, "{of_file:o} {of_folder:o}");
    }
}

#[test]
fn key_of_aws_is_searched_for_by_its_parts_and_has_two_variables() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("key");
    std::fs::write(&file, format!("AKIDEXAMPLE:{VALUE}:the-session-token\n")).unwrap();
    let secrets = read(&format!("AWS@s3.example/aws/eu-west-1/s3=file:{}", file.display())).unwrap();
    let command = |argument: &str| Command { argv: vec![argument.into()], ..Command::default() };
    for (argument, set, reason) in [
        (VALUE, "", "the arguments of the command also contain the value"),
        ("x the-session-token", "", "the arguments of the command also contain the value"),
        ("true", "AWS_ACCESS_KEY_ID=x", "--env sets the same variable"),
        ("true", "AWS_SECRET_ACCESS_KEY", "--env sets the same variable"),
    ] {
        let added = secrets.add_to(&mut SandboxSpec::default(), &command(argument), &[set.to_owned()]);
        let error = added.unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains(VALUE), "{error}");
    }
    secrets.add_to(&mut SandboxSpec::default(), &command("AKIDEXAMPLE"), &["AWS=x".to_owned()]).unwrap();
}

#[test]
fn variables_of_the_caller_stay_and_others_are_replaced() {
    let mut command = Command { env: vec![("A".into(), "1".into()), ("B".into(), "1".into())], ..Command::default() };
    add_environment(&mut command, vec![("A".into(), "2".into()), ("B".into(), "2".into())], &["A=1".to_owned()]);
    let expected: Vec<(OsString, OsString)> = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
    assert_eq!(command.env, expected);
}
