//! Pages of lists.

use super::failure::invalid;
use tonic::Status;

/// The capabilities or approvals of a page, unless the client asks for another number.
const USUAL: usize = 50;

/// The most of them.
const MAX: u32 = 100;

/// The most bytes of a page. It stays below the 4 MiB that clients accept by default, whatever the last entry has.
const MAX_BYTES: usize = 2 << 20;

/// Returns the entries of a page, and the token of the next page. `sorted` are all entries, in the order of their names, and a
/// token is the name of the last entry of a page. A page has at least one entry, if there are more.
pub(super) fn page<T, M>(
    sorted: impl Iterator<Item = (String, T)>,
    (size, token): (u32, &str),
    mut message: impl FnMut(T) -> (M, usize),
) -> Result<(Vec<M>, String), Status> {
    let most = match size {
        0 => USUAL,
        1..=MAX => usize::try_from(size).unwrap_or(USUAL),
        _ => return Err(invalid("page_size", format!("page_size: {size} — use a number up to {MAX}"))),
    };
    let (mut entries, mut bytes, mut last) = (Vec::new(), 0, String::new());
    for (name, entry) in sorted.skip_while(|(name, _)| name.as_str() <= token) {
        if entries.len() == most || bytes > MAX_BYTES {
            return Ok((entries, last));
        }
        let (entry, length) = message(entry);
        entries.push(entry);
        bytes += length;
        last = name;
    }
    Ok((entries, String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(size: u32, token: &str, bytes: usize) -> (Vec<u8>, String) {
        let all = (b'a'..=b'e').map(|letter| (char::from(letter).to_string(), letter));
        page(all, (size, token), |letter| (letter, bytes)).unwrap()
    }

    #[test]
    fn pages_have_every_entry_once() {
        assert_eq!(names(2, "", 1), (b"ab".to_vec(), "b".to_owned()));
        assert_eq!(names(2, "b", 1), (b"cd".to_vec(), "d".to_owned()));
        assert_eq!(names(2, "d", 1), (b"e".to_vec(), String::new()));
        assert_eq!(names(5, "", 1).1, "");
        assert_eq!(names(2, "x", 1), (Vec::new(), String::new()));
    }

    #[test]
    fn long_entries_make_short_pages() {
        assert_eq!(names(5, "", MAX_BYTES + 1), (b"a".to_vec(), "a".to_owned()));
    }

    #[test]
    fn size_is_bounded() {
        assert!(page(std::iter::empty::<(String, u8)>(), (101, ""), |entry| (entry, 0)).is_err());
    }
}
