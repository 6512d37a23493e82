use super::*;

fn only(capability: &str) -> Caveats {
    Caveats { capabilities: Some([capability.to_owned()].into()), ..Caveats::default() }
}

fn parts(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn verified(text: &str, root: &PublicKey) -> Result<Vec<Caveats>, &'static str> {
    Token::parse(text)?.verify(root)
}

#[test]
fn token_has_the_restrictions_of_all_its_blocks() {
    let key = ApiKey::random().unwrap();
    let root = public_key(&key).unwrap();
    let first = restrict(key.secret_text(), &only("a.v1")).unwrap();
    let second = restrict(&first, &Caveats { expires: Some(5), ..Caveats::default() }).unwrap();
    assert_eq!(verified(&second, &root).unwrap(), [only("a.v1"), Caveats { expires: Some(5), ..Caveats::default() }]);
    let secret = key.secret_text().rsplit_once('_').unwrap().1;
    assert!(!second.contains(&secret[..16]) && !format!("{:?}", Token::parse(&second)).contains(parts(&second)[3].as_str()));
}

#[test]
fn blocks_cannot_be_removed_reordered_changed_or_moved_to_other_keys() {
    let key = ApiKey::random().unwrap();
    let root = public_key(&key).unwrap();
    let first = restrict(key.secret_text(), &only("a.v1")).unwrap();
    let whole = restrict(&restrict(&first, &only("b.v1")).unwrap(), &only("c.v1")).unwrap();
    let parts = parts(&whole);
    let [head, one, two, three, last] = &parts[..] else { panic!("{parts:?}") };
    assert!(verified(&whole, &root).is_ok());
    for kept in [
        vec![head, one, two, last],
        vec![head, one, last],
        vec![head, two, three, last],
        vec![head, one, three, last],
        vec![head, two, one, three, last],
        vec![head, one, one, two, three, last],
        vec![head, last],
        vec![head, one, two, three],
        vec![head],
    ] {
        let text = kept.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(".");
        assert!(verified(&text, &root).is_err(), "{text}");
    }
    // With the key of an earlier holder, the blocks until that holder can be kept, but not those of a later one.
    let [_, _, earlier] = &super::tests::parts(&first)[..] else { panic!("one block") };
    assert!(verified(&format!("{head}.{one}.{earlier}"), &root).is_ok());
    assert!(verified(&format!("{head}.{one}.{two}.{earlier}"), &root).is_err());
    for at in 0..whole.len() {
        let mut other = whole.as_bytes().to_vec();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert!(verified(&String::from_utf8(other).unwrap(), &root).is_err(), "changed at {at}");
        assert!(verified(&whole[..at], &root).is_err(), "cut at {at}");
    }
    assert!(verified(&whole, &public_key(&ApiKey::random().unwrap()).unwrap()).is_err());
    let other = ApiKey::random().unwrap();
    let moved = whole.replace(&key.id().to_string(), &other.id().to_string());
    assert!(verified(&moved, &root).is_err(), "the identifier is signed");
}

#[test]
fn unknown_and_malformed_restrictions_make_a_token_invalid() {
    let key = ApiKey::random().unwrap();
    let root = public_key(&key).unwrap();
    let signed = |caveats: &[u8]| {
        let next = pair(&[7; KEY]).unwrap();
        let next: [u8; KEY] = next.public_key().as_ref().try_into().unwrap();
        let signature = pair(&super::root(&key)).unwrap().sign(&message(key.id(), 0, &next, caveats));
        let block = TokenBlock { next, signature: signature.as_ref().try_into().unwrap(), caveats: caveats.to_vec() };
        Token { id: key.id(), blocks: vec![block], last: Zeroizing::new([7; KEY]) }.text()
    };
    assert!(verified(&signed(b"{}"), &root).is_ok());
    for caveats in [
        &b"{\"hosts\":[]}"[..],
        b"",
        b"null",
        b"[]",
        b"{\"expires\":\"never\"}",
        b"{\"expires\":1,\"expires\":9}",
        b"{\"workspaces\":[\"srv\"]}",
        b"{\"workspaces\":[\"/srv/../etc\"]}",
    ] {
        assert!(verified(&signed(caveats), &root).is_err(), "{}", String::from_utf8_lossy(caveats));
    }
    assert!(verified(&signed(&[b' '; MAX_CAVEATS + 1]), &root).is_err());
}

#[test]
fn number_and_length_of_blocks_are_bounded() {
    let key = ApiKey::random().unwrap();
    let mut text = restrict(key.secret_text(), &Caveats::default()).unwrap();
    for _ in 1..MAX_BLOCKS {
        text = restrict(&text, &Caveats::default()).unwrap();
    }
    assert!(verified(&text, &public_key(&key).unwrap()).is_ok());
    assert!(matches!(restrict(&text, &Caveats::default()), Err(RestrictError::Blocks)));
    let (head, last) = text.rsplit_once('.').unwrap();
    let block = text.split('.').nth(1).unwrap();
    assert!(Token::parse(&format!("{head}.{block}.{last}")).is_err());
    let long = Caveats { workspaces: Some(vec!["/a".repeat(2000).into()]), ..Caveats::default() };
    assert!(matches!(restrict(key.secret_text(), &long), Err(RestrictError::Caveats)));
    let half = Caveats { workspaces: Some(vec!["/a".repeat(1000).into()]), ..Caveats::default() };
    let mut text = restrict(key.secret_text(), &half).unwrap();
    let too_long = loop {
        match restrict(&text, &half) {
            Ok(longer) => text = longer,
            Err(error) => break error,
        }
    };
    assert!(matches!(too_long, RestrictError::Blocks) && text.split('.').count() < MAX_BLOCKS && text.len() <= MAX_TEXT);
    let relative = Caveats { workspaces: Some(vec!["a".into()]), ..Caveats::default() };
    assert!(matches!(restrict(key.secret_text(), &relative), Err(RestrictError::Caveats)));
    for other in ["", "agentdtoken_", "agentd_x", "agentdtoken_00.a.b"] {
        assert!(restrict(other, &Caveats::default()).is_err(), "{other}");
    }
}

/// The token was made by an implementation in Python, with the signatures of OpenSSL.
#[test]
fn token_of_an_independent_implementation_is_verified() {
    let key = ApiKey::parse("agentd_0011223344556677_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2f46e885")
        .unwrap();
    let root = public_key(&key).unwrap();
    assert_eq!(root.to_string(), "497699babfcf37ffb16993b3d19cf5419b4a44fc4ccf47651e286499c5c0ae82");
    let whole = "agentdtoken_0011223344556677.iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1yzlPCXaheoYcbJ8xQim3hGCbKtzCy\
        KCMFEfYUeE7vxoRC2yccpUVSnL2ruChiqZztmx5onBjC3vm3PdLcuJfEEeyJjYXBhYmlsaXRpZXMiOlsiZnMucmVhZC52MSJdfQ.\
        gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5RxZlSyQMx9iYunRC9j1wgGbPYVk-vfh3GSvIEibyLxejJe1BC_2ZH9CWB8\
        twlVMXWJ7byd4rbG-97xu3Ml6A8EeyJleHBpcmVzIjo0MTAyNDQ0ODAwfQ.AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICA\
        gI";
    let expires = Caveats { expires: Some(4_102_444_800), ..Caveats::default() };
    assert_eq!(verified(whole, &root).unwrap(), [only("fs.read.v1"), expires]);
}

proptest::proptest! {
    #[test]
    fn any_text_is_refused_or_is_the_text_of_its_token(text in "agentdtoken_[0-9a-f]{16}(\\.[A-Za-z0-9_-]{0,140}){0,10}|\\PC*") {
        if let Ok(token) = Token::parse(&text) {
            proptest::prop_assert_eq!(token.text().to_string(), text.clone());
        }
        if let Ok(key) = ApiKey::parse(&text) {
            proptest::prop_assert_eq!(key.secret_text().to_owned(), text.clone());
        }
    }
}
