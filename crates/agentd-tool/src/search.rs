//! Searches the lines of files for a regular expression.

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
    limits,
    request::SearchRequest,
    resolve::{self, LastLink, Resolver},
    response::{FoundLine, NodeKind, SearchResult, Truncation},
    tree::Walk,
};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch};
use std::{fs::File, io, ops::ControlFlow};

/// Memory for one line of a file, in bytes. A longer line ends the search of its file.
const MAX_LINE: usize = 16 << 20;

/// Memory for the compiled regular expression, in bytes.
const MAX_REGEX: usize = 10 << 20;

/// The maximum number of levels of directories that a search enters.
const MAX_DEPTH: u32 = 200;

/// Searches the file or the directory of a request.
pub(crate) fn search(resolver: &Resolver, request: &SearchRequest) -> Result<SearchResult, ToolError> {
    let path = request.path.as_bytes();
    let matcher = matcher(request)?;
    let deadline = Deadline::of(request.time_ms);
    let mut results = Results::new(request, deadline);
    let place = resolver.resolve("search", path, LastLink::Follow)?;
    let found = place.stat().map_err(|errno| ToolError::system("search", path, errno))?;
    if found.is_none_or(|found| resolve::kind(&found) != NodeKind::Directory) {
        let (file, _) = place.open_regular("search", path, rustix::fs::OFlags::RDONLY)?;
        results.truncated = results.file(&matcher, file, &[]).break_value();
        return Ok(results.finish());
    }
    let directory = place.open_directory("search", path)?;
    let walk = Walk::new(&request.filter, MAX_DEPTH, deadline)?;
    let mut unreadable = 0;
    let (mut left_out, truncated) = walk.run(&directory, resolver.boundary(), &mut |found| {
        if resolve::kind(&found.stat) != NodeKind::File {
            return ControlFlow::Continue(());
        }
        match resolve::open_file(found.directory, found.name) {
            Ok((file, _)) => results.file(&matcher, file, found.path),
            Err(_) => {
                unreadable += 1;
                ControlFlow::Continue(())
            }
        }
    });
    left_out.unreadable += unreadable + results.unreadable;
    results.truncated = truncated;
    Ok(SearchResult { left_out, ..results.finish() })
}

fn matcher(request: &SearchRequest) -> Result<RegexMatcher, ToolError> {
    let invalid = |why: &str| ToolError::new(ErrorCode::Invalid, format!("pattern: {why}"));
    if request.pattern.len() > limits::PATTERN {
        return Err(invalid("longer than 65536 bytes — use a shorter pattern"));
    }
    RegexMatcherBuilder::new()
        .multi_line(true)
        .line_terminator(Some(b'\n'))
        .fixed_strings(request.literal)
        .case_insensitive(request.ignore_case)
        .size_limit(MAX_REGEX)
        .dfa_size_limit(MAX_REGEX)
        .build(&request.pattern)
        .map_err(|error| invalid(&format!("{error} — correct the regular expression, or search literal text")))
}

/// The lines found so far.
struct Results {
    lines: Vec<FoundLine>,
    matches: u64,
    files: u64,
    binary: u64,
    unreadable: u64,
    bytes: u64,
    truncated: Option<Truncation>,
    max_matches: u64,
    max_bytes: u64,
    deadline: Deadline,
    searcher: Searcher,
}

impl Results {
    fn new(request: &SearchRequest, deadline: Deadline) -> Self {
        let context = usize::try_from(request.context.min(limits::CONTEXT)).unwrap_or(0);
        let searcher = SearcherBuilder::new()
            .line_number(true)
            .before_context(context)
            .after_context(context)
            .binary_detection(BinaryDetection::quit(0))
            .bom_sniffing(false)
            .heap_limit(Some(MAX_LINE))
            .build();
        Self {
            lines: Vec::new(),
            matches: 0,
            files: 0,
            binary: 0,
            unreadable: 0,
            bytes: 0,
            truncated: None,
            max_matches: limits::MATCHES.of(request.max_matches),
            max_bytes: limits::FOUND.of(request.max_bytes),
            deadline,
            searcher,
        }
    }

    /// Searches one file.
    fn file(&mut self, matcher: &RegexMatcher, file: File, path: &[u8]) -> ControlFlow<Truncation> {
        self.files += 1;
        let (mut searcher, deadline) = (self.searcher.clone(), self.deadline);
        let mut sink = FileSink { results: self, path, ended: None };
        let searched = searcher.search_reader(matcher, deadline.reader(file), &mut sink);
        if let Some(reason) = sink.ended {
            return ControlFlow::Break(reason);
        }
        match searched {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => ControlFlow::Break(Truncation::Time),
            Err(_) => {
                self.unreadable += 1;
                ControlFlow::Continue(())
            }
        }
    }

    fn finish(self) -> SearchResult {
        let Self { lines, matches, files, binary, unreadable, truncated, .. } = self;
        let left_out = crate::response::LeftOut { unreadable, ..Default::default() };
        SearchResult { lines, matches, files, binary, left_out, truncated }
    }
}

/// Receives the lines of one file.
struct FileSink<'a> {
    results: &'a mut Results,
    path: &'a [u8],
    ended: Option<Truncation>,
}

impl FileSink<'_> {
    /// Adds a line. Returns false if a limit is reached.
    fn add(&mut self, line: Option<u64>, bytes: &[u8], matches: bool) -> bool {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let kept = &text[..text.len().min(limits::LINE)];
        self.results.bytes += (kept.len() + self.path.len()) as u64;
        let reached = [
            (matches && self.results.matches >= self.results.max_matches).then_some(Truncation::Count),
            (self.results.bytes > self.results.max_bytes).then_some(Truncation::Bytes),
            self.results.deadline.is_over().then_some(Truncation::Time),
        ];
        self.ended = reached.into_iter().flatten().next();
        if self.ended.is_some() {
            return false;
        }
        self.results.matches += u64::from(matches);
        let cut = kept.len() < text.len();
        self.results.lines.push(FoundLine { path: self.path.into(), line: line.unwrap_or(0), text: kept.into(), matches, cut });
        true
    }
}

impl Sink for FileSink<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        Ok(self.add(found.line_number(), found.bytes(), true))
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, io::Error> {
        Ok(self.add(context.line_number(), context.bytes(), false))
    }

    fn finish(&mut self, _: &Searcher, end: &SinkFinish) -> Result<(), io::Error> {
        self.results.binary += u64::from(end.binary_byte_offset().is_some());
        Ok(())
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
