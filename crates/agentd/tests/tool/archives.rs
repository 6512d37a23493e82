//! Archives with escapes extract nothing outside of their new directory.

use crate::{Place, table};
use agentd::tool::{ArchiveRequest, ErrorCode, ToolRequest, ToolResponse, WriteRequest};
use libtest_mimic::Trial;
use std::fs;
use tar::{Builder, EntryType, Header};

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table![backend, archive_with_escapes_changes_nothing_outside, bomb_in_archive_ends_at_its_limit]
}

fn tar(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

async fn put(place: &Place, path: &str, content: &[u8]) {
    let request = WriteRequest { path: path.into(), ..WriteRequest::default() };
    place.call(ToolRequest::Write(request), content).await.unwrap();
}

fn extract(to: &str, max_bytes: Option<u64>) -> ToolRequest {
    ToolRequest::Archive(ArchiveRequest {
        path: "archive".into(),
        extract_to: Some(to.into()),
        max_bytes,
        ..ArchiveRequest::default()
    })
}

async fn archive_with_escapes_changes_nothing_outside(backend: &'static str) {
    let place = Place::new(backend).await;
    put(&place, "victim", b"kept").await;
    let archive = tar(&[
        ("../victim", EntryType::Regular, "", b"x"),
        ("/tmp/victim", EntryType::Regular, "", b"x"),
        ("up", EntryType::Symlink, "..", b""),
        ("up/victim", EntryType::Regular, "", b"inside"),
        ("root", EntryType::Symlink, "/", b""),
        ("hard", EntryType::Link, "../victim", b""),
        ("null", EntryType::Char, "", b""),
        ("good", EntryType::Regular, "", b"good"),
    ]);
    put(&place, "archive", &archive).await;
    let ToolResponse::Archive(result) = place.call(extract("new", None), b"").await.unwrap().response else { panic!() };
    let refused: Vec<&[u8]> = result.entries.iter().map(|entry| entry.path.as_bytes()).collect();
    assert_eq!(refused, [&b"../victim"[..], b"/tmp/victim", b"up", b"root", b"hard", b"null"]);
    assert_eq!(result.count, 2);
    assert_eq!(fs::read(place.path().join("victim")).unwrap(), b"kept");
    assert_eq!(fs::read(place.path().join("new/up/victim")).unwrap(), b"inside");
    let good = fs::metadata(place.path().join("new/good")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&good.permissions()) & 0o7777, 0o755);
    // A link in the way is not followed, and not replaced.
    place.payload("ln -s . other").await;
    assert_eq!(place.code(extract("other", None)).await, ErrorCode::AlreadyExists);
    assert_eq!(place.code(extract("../other", None)).await, ErrorCode::Outside);
    place.end().await;
}

async fn bomb_in_archive_ends_at_its_limit(backend: &'static str) {
    let place = Place::new(backend).await;
    let zeros = vec![0; 512 << 10];
    put(&place, "archive", &tar(&[("zeros", EntryType::Regular, "", &zeros)])).await;
    assert_eq!(place.code(extract("new", Some(256 << 10))).await, ErrorCode::Limit);
    let mut names: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["archive"]);
    place.end().await;
}
