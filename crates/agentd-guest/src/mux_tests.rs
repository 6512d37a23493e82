use super::{
    super::{
        flow::WINDOW,
        frame::{StreamKind, encode},
    },
    *,
};
use proptest::prelude::*;
use std::time::Duration;
use tokio::io::{DuplexStream, duplex, split};

const LIMIT: usize = 64 << 10;

/// The last message before a pause.
const LAST: u32 = u32::MAX;

fn id(operation: u32) -> StreamId {
    StreamId { operation, kind: StreamKind::Output }
}

fn mux() -> Arc<Mux> {
    Mux::new(LIMIT, LIMIT)
}

/// Runs one side, and forwards received messages to a channel; `LAST` ends the run.
fn run(mux: &Arc<Mux>, transport: DuplexStream) -> (tokio::task::JoinHandle<Result<(), String>>, std::sync::mpsc::Receiver<u32>) {
    run_side(mux, transport, false)
}

/// With `answers`, the side answers `LAST` with `LAST`.
fn run_side(
    mux: &Arc<Mux>,
    transport: DuplexStream,
    answers: bool,
) -> (tokio::task::JoinHandle<Result<(), String>>, std::sync::mpsc::Receiver<u32>) {
    let (received, messages) = std::sync::mpsc::channel();
    let (mux, running) = (mux.clone(), mux.clone());
    let task = tokio::spawn(async move {
        let (mut reader, mut writer) = split(transport);
        let handle = |message: u32| {
            received.send(message).ok();
            match message {
                LAST if answers => {
                    running.hold(&LAST, true).unwrap();
                    Ok(ReadNext::More)
                }
                LAST => Ok(ReadNext::Stop),
                _ => Ok(ReadNext::More),
            }
        };
        mux.run(&mut reader, &mut writer, handle).await
    });
    (task, messages)
}

/// Returns the result of one side when the other sends these frames.
async fn run_against(mux: &Arc<Mux>, frames: &[Frame<'_, u32>]) -> Result<(), String> {
    let (ours, mut theirs) = duplex(LIMIT);
    let (task, _messages) = run(mux, ours);
    let mut bytes = Vec::new();
    for frame in frames {
        encode(frame, usize::MAX, &mut bytes).unwrap();
    }
    // The side may have stopped before it has read everything.
    theirs.write_all(&bytes).await.ok();
    drop(theirs);
    task.await.unwrap()
}

fn data(operation: u32, length: usize) -> Frame<'static, u32> {
    Frame::Data { stream: id(operation), bytes: vec![7; length].into() }
}

#[tokio::test]
async fn protocol_violation_ends_connection() {
    let window = usize::try_from(WINDOW).unwrap();
    let full = |operation| (0..window / CHUNK).map(move |_| data(operation, CHUNK));
    let eof = || Frame::Eof { stream: id(1) };
    let cases: Vec<(Vec<Frame<'_, u32>>, &str)> = vec![
        (vec![data(2, 1)], "data for a stream that is not open"),
        (vec![Frame::Data { stream: StreamId { operation: 1, kind: StreamKind::Input }, bytes: vec![1].into() }], "not open"),
        (vec![Frame::Eof { stream: id(2) }], "ended a stream that is not open"),
        (vec![eof(), eof()], "ended a stream that is not open"),
        (vec![eof(), data(1, 1)], "data for a stream that is not open"),
        (full(1).chain([data(1, 1)]).collect(), "more data than the credit of the stream"),
        (vec![Frame::Credit { stream: id(9), bytes: 1 }], "more credit than the window of the stream"),
        (vec![Frame::Credit { stream: id(9), bytes: u32::MAX }], "more credit than the window of the stream"),
        (vec![data(1, CHUNK + 1)], "malformed"),
        (vec![data(1, 2 * LIMIT)], "over the limit"),
        (vec![Frame::Message(1)], "the connection ended"),
    ];
    for (frames, expected) in cases {
        let mux = mux();
        let _recv_stream = mux.recv_stream(id(1)).unwrap();
        let _send_stream = mux.send_stream(id(9)).unwrap();
        let why = run_against(&mux, &frames).await.unwrap_err();
        assert!(why.contains(expected), "{why} does not contain: {expected}");
    }
}

#[tokio::test]
async fn unread_stream_buffers_one_window_and_blocks_no_other_stream() {
    let (one, other) = (mux(), mux());
    let (ours, theirs) = duplex(4096);
    let (_one, _) = run(&one, ours);
    let (_other, messages) = run(&other, theirs);
    let (mut full, mut free) = (one.send_stream(id(1)).unwrap(), one.send_stream(id(2)).unwrap());
    let (mut unread, mut read) = (other.recv_stream(id(1)).unwrap(), other.recv_stream(id(2)).unwrap());
    let stuck = tokio::spawn(async move { full.write(&vec![1; 4 << 20]).await });
    let writer = tokio::spawn(async move { free.write(&vec![2; 4 << 20]).await });
    let mut total = 0;
    while total < 4 << 20 {
        total += read.read().await.unwrap().len();
    }
    writer.await.unwrap().unwrap();
    one.send(&5u32).unwrap();
    while messages.try_recv() != Ok(5) {
        tokio::task::yield_now().await;
    }
    assert!(!stuck.is_finished());
    assert!(other.lock().recv_streams[&id(1)].waiting.len() <= usize::try_from(WINDOW).unwrap());
    // Reading lets the writer continue; dropping the reader closes the stream.
    assert!(!unread.read().await.unwrap().is_empty());
    drop(unread);
    assert_eq!(stuck.await.unwrap(), Err(Stop::Closed));
    // Both sides remove the stream.
    while one.lock().send_streams.len() + other.lock().recv_streams.len() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_take_turns() {
    let (one, other) = (mux(), mux());
    let (ours, theirs) = duplex(4096);
    let mut recv_streams: Vec<_> = (0..8).map(|operation| other.recv_stream(id(operation)).unwrap()).collect();
    for operation in 0..8 {
        let mut send_stream = one.send_stream(id(operation)).unwrap();
        tokio::spawn(async move { send_stream.write(&vec![0; 64 << 20]).await });
    }
    let (_one, _) = run(&one, ours);
    let (_other, _) = run(&other, theirs);
    // Bytes of each stream arrive, though no stream reaches its end.
    for recv_stream in &mut recv_streams {
        assert!(!recv_stream.read().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn queued_bytes_survive_change_of_transport() {
    let (one, other) = (mux(), mux());
    let mut send_stream = one.send_stream(id(1)).unwrap();
    let mut recv_stream = other.recv_stream(id(1)).unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        send_stream.write(&sent).await.unwrap();
        send_stream.finish().await;
    });
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(bytes) = recv_stream.read().await {
            all.extend(bytes);
            tokio::task::yield_now().await;
        }
        all
    });
    while !writer.is_finished() || !reader.is_finished() {
        let (ours, theirs) = duplex(5000);
        let (first, _) = run(&one, ours);
        let (second, _) = run_side(&other, theirs, true);
        tokio::time::sleep(Duration::from_millis(1)).await;
        one.hold(&LAST, false).unwrap();
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Ok(())));
    }
    writer.await.unwrap();
    assert!(reader.await.unwrap() == expected);
}

#[tokio::test]
async fn lost_connection_wakes_readers_and_writers() {
    let mux = mux();
    let (mut recv_stream, mut send_stream) = (mux.recv_stream(id(1)).unwrap(), mux.send_stream(id(2)).unwrap());
    let reader = tokio::spawn(async move { recv_stream.read().await });
    let writer = tokio::spawn(async move { (send_stream.write(&vec![0; 1 << 20]).await, send_stream.finish().await) });
    let (ours, _theirs) = duplex(100);
    let (task, _) = run(&mux, ours);
    tokio::task::yield_now().await;
    mux.lose("a reason");
    mux.lose("another");
    assert_eq!(reader.await.unwrap(), None);
    assert_eq!(writer.await.unwrap().0, Err(Stop::Lost));
    assert_eq!(task.await.unwrap(), Err("a reason".to_owned()));
    assert!(mux.lock().recv_streams.is_empty() && mux.lock().send_streams.is_empty());
    // A message on a lost connection is not an error, and is discarded.
    mux.send(&1u32).unwrap();
    assert!(mux.lock().messages.is_empty());
}

#[tokio::test]
async fn queued_messages_and_open_streams_are_bounded() {
    let mux = mux();
    let error = (0..u32::MAX).find_map(|_| mux.send(&vec![0u8; 1 << 15]).err()).unwrap();
    assert!(matches!(error, frame::FrameError::QueueFull));
    let mut open = Vec::new();
    let error = loop {
        match mux.recv_stream(id(u32::try_from(open.len()).unwrap())) {
            Ok(recv_stream) => open.push(recv_stream),
            Err(error) => break error,
        }
    };
    assert_eq!((open.len(), error), (STREAMS, frame::FrameError::TooMany { limit: STREAMS }));
}

#[tokio::test]
async fn aborted_stream_delivers_its_bytes_and_is_incomplete() {
    let (one, other) = (mux(), mux());
    let (a, b) = duplex(1 << 20);
    let (mut broken, whole) = (one.send_stream(id(1)).unwrap(), one.send_stream(id(2)).unwrap());
    let (mut first, mut second) = (other.recv_stream(id(1)).unwrap(), other.recv_stream(id(2)).unwrap());
    let _running = (run(&one, a), run(&other, b));
    broken.write(b"part").await.unwrap();
    broken.abort().await;
    whole.finish().await;
    let mut received = Vec::new();
    while let Some(bytes) = first.read().await {
        received.extend(bytes);
    }
    assert_eq!((received.as_slice(), first.is_complete()), (&b"part"[..], false));
    assert_eq!((second.read().await, second.is_complete()), (None, true));
    // A reader that closes a stream waits for the writer's end.
    let (left, closed) = (one.send_stream(id(3)).unwrap(), other.recv_stream(id(3)).unwrap());
    let closing = tokio::spawn(closed.close());
    while one.stopped(id(3)).is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    left.finish().await;
    closing.await.unwrap();
}

proptest! {
    #[test]
    fn random_frames_neither_panic_nor_exceed_window(
        frames in prop::collection::vec((0u8..6, 0u32..4, 1usize..CHUNK, any::<u32>()), 0..60),
    ) {
        let frames: Vec<Frame<'_, u32>> = frames.into_iter().map(|(kind, operation, length, number)| match kind {
            0 => Frame::Message(number),
            1 => data(operation, length),
            2 => Frame::Credit { stream: id(operation), bytes: number >> (number % 32) },
            3 => Frame::Eof { stream: id(operation) },
            4 => Frame::Abort { stream: id(operation) },
            _ => Frame::Close { stream: id(operation) },
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mux = mux();
            let _recv_streams: Vec<_> = (0..3).map(|operation| mux.recv_stream(id(operation)).unwrap()).collect();
            let _send_streams: Vec<_> = (0..3).map(|operation| mux.send_stream(id(operation)).unwrap()).collect();
            run_against(&mux, &frames).await.unwrap_err();
            let state = mux.lock();
            assert!(state.recv_streams.values().all(|recv_stream| recv_stream.waiting.len() <= usize::try_from(WINDOW).unwrap()));
        });
    }
}
