use super::*;

fn secret(place: SecretPlace, value: &str) -> (Placeholder, Secret) {
    let placeholder = Placeholder::random("sk-").unwrap();
    let host = SecretHost { name: "a.example".parse().unwrap(), port: 443 };
    (placeholder.clone(), Secret::new(placeholder, value.to_owned(), host, place).unwrap())
}

fn bearer() -> (Placeholder, Secret) {
    secret(SecretPlace::Header("Authorization".to_owned()), "real-value")
}

/// Injects `secrets` into a request whose `Authorization` headers have the values `sent`. Returns the new values.
fn inject(secrets: &[Secret], sent: &[String]) -> Result<Vec<String>, InspectRefusal> {
    let mut headers = HeaderMap::new();
    for value in sent {
        headers.append("authorization", value.parse().unwrap());
    }
    HostSecrets::of(secrets, &"a.example".parse().unwrap(), 443).inject(&mut headers)?;
    let values = headers.get_all("authorization").iter();
    Ok(values.map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect())
}

#[test]
fn placeholder_is_replaced_alone_and_after_a_scheme() {
    let (placeholder, secret) = bearer();
    let secrets = [secret];
    assert!(placeholder.to_string().starts_with("sk-"));
    assert_eq!(inject(&secrets, &[placeholder.to_string()]), Ok(vec!["real-value".to_owned()]));
    assert_eq!(inject(&secrets, &[format!("Bearer {placeholder}")]), Ok(vec!["Bearer real-value".to_owned()]));
    assert_eq!(inject(&secrets, &[]), Ok(Vec::new()));
}

#[test]
fn credential_of_the_program_is_neither_replaced_nor_combined() {
    let (placeholder, secret) = bearer();
    let (other, _) = bearer();
    let secrets = [secret];
    let refused = Err(InspectRefusal::Credential { header: "authorization".to_owned() });
    for sent in [
        vec!["Bearer own-credential".to_owned()],
        vec![format!("Bearer {other}")],
        vec![format!("Bearer x{placeholder}")],
        vec![format!("Bearer {placeholder}x")],
        vec![format!("Bearer {placeholder}, Bearer own")],
        vec![format!("Bearer own {placeholder}")],
        vec![format!("own-credential-1 {placeholder}")],
        vec![String::new()],
        vec![format!("Bearer {placeholder}"), "Bearer own".to_owned()],
        vec![format!("Bearer {placeholder}"), format!("Bearer {placeholder}")],
        vec![format!("Basic {}", BASE64.encode(format!("user:{placeholder}").as_bytes()))],
    ] {
        assert_eq!(inject(&secrets, &sent), refused, "{sent:?}");
    }
}

#[test]
fn password_of_basic_authentication_is_replaced() {
    let (placeholder, secret) = secret(SecretPlace::BasicPassword, "real:value=");
    let secrets = [secret];
    let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
    let sent = [basic(&format!("user:{placeholder}"))];
    assert_eq!(inject(&secrets, &sent), Ok(vec![basic("user:real:value=")]));
    for sent in [
        basic("user:own"),
        basic(&format!("{placeholder}:own")),
        basic(&format!("user:x{placeholder}")),
        basic(&placeholder.to_string()),
        format!("Bearer {placeholder}"),
        format!("Basic {placeholder}"),
    ] {
        assert!(inject(&secrets, std::slice::from_ref(&sent)).is_err(), "{sent}");
    }
}

#[test]
fn two_secrets_can_share_a_header_of_one_host() {
    let (first, one) = bearer();
    let (second, two) = secret(SecretPlace::BasicPassword, "other-value");
    let secrets = [one, two];
    assert_eq!(inject(&secrets, &[format!("token {first}")]), Ok(vec!["token real-value".to_owned()]));
    let sent = format!("basic {}", BASE64.encode(format!("u:{second}").as_bytes()));
    assert_eq!(inject(&secrets, &[sent]), Ok(vec![format!("Basic {}", BASE64.encode(b"u:other-value"))]));
}

#[test]
fn secret_is_for_its_host_and_port_only() {
    let (placeholder, secret) = bearer();
    let secrets = [secret];
    for (name, port) in [("b.example", 443), ("x.a.example", 443), ("a.example", 8443)] {
        let other = HostSecrets::of(&secrets, &name.parse().unwrap(), port);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", placeholder.to_string().parse().unwrap());
        assert_eq!(other.inject(&mut headers), Ok(()));
        assert_eq!(headers["authorization"], placeholder.to_string());
        assert!(other.is_empty() && other.values().next().is_none());
    }
}

#[test]
fn values_and_places_that_cannot_be_used_are_refused() {
    let host = || SecretHost { name: "a.example".parse().unwrap(), port: 443 };
    let make = |value: &str, header: &str| {
        let place = SecretPlace::Header(header.to_owned());
        Secret::new(Placeholder::random("").unwrap(), value.to_owned(), host(), place).err()
    };
    assert!(make("12345678", "X-Key").is_none());
    assert!(matches!(make("1234567", "X-Key"), Some(InspectionError::Length { .. })));
    assert!(matches!(make(&"x".repeat(4097), "X-Key"), Some(InspectionError::Length { .. })));
    for value in ["1234567\n89", "with space", "schlüssel"] {
        assert!(matches!(make(value, "X-Key"), Some(InspectionError::Value { .. })), "{value}");
    }
    for header in ["", "a b", "Host", "transfer-encoding"] {
        let error = make("12345678", header).unwrap();
        assert!(matches!(error, InspectionError::Header { .. }), "{header}");
        assert!(!agentd_core::Remedy::in_message(&error.to_string()).as_str().is_empty(), "{error}");
    }
    assert!(matches!(Placeholder::random("a b"), Err(InspectionError::Prefix)));
}

#[test]
fn value_in_a_header_is_hidden_from_debug_output() {
    let (placeholder, secret) = bearer();
    let secrets = [secret];
    let mut headers = HeaderMap::new();
    headers.insert("authorization", placeholder.to_string().parse().unwrap());
    HostSecrets::of(&secrets, &"a.example".parse().unwrap(), 443).inject(&mut headers).unwrap();
    assert!(!format!("{headers:?}").contains("real-value"));
}
