use super::{
    super::frame::{Which, encode},
    *,
};
use proptest::prelude::*;
use std::time::Duration;
use tokio::io::{DuplexStream, duplex, split};

const LIMIT: usize = 64 << 10;

/// A message before silence.
const LAST: u32 = u32::MAX;

fn id(of: u32) -> StreamId {
    StreamId { of, which: Which::Output }
}

fn mux() -> Arc<Mux> {
    Mux::new(LIMIT, LIMIT)
}

/// Runs one side, handing the messages that come to a channel; `LAST` is the last.
fn run(mux: &Arc<Mux>, carrier: DuplexStream) -> (tokio::task::JoinHandle<Result<(), String>>, std::sync::mpsc::Receiver<u32>) {
    run_side(mux, carrier, false)
}

/// `answers`: it says the last when it hears that.
fn run_side(
    mux: &Arc<Mux>,
    carrier: DuplexStream,
    answers: bool,
) -> (tokio::task::JoinHandle<Result<(), String>>, std::sync::mpsc::Receiver<u32>) {
    let (heard, messages) = std::sync::mpsc::channel();
    let (mux, running) = (mux.clone(), mux.clone());
    let task = tokio::spawn(async move {
        let (mut reader, mut writer) = split(carrier);
        let hear = |message: u32| {
            heard.send(message).ok();
            match message {
                LAST if answers => {
                    running.hold(&LAST, true).unwrap();
                    Ok(Next::More)
                }
                LAST => Ok(Next::Stop),
                _ => Ok(Next::More),
            }
        };
        mux.run(&mut reader, &mut writer, hear).await
    });
    (task, messages)
}

/// What becomes of one side when the other sends these frames.
async fn against(mux: &Arc<Mux>, frames: &[Frame<'_, u32>]) -> Result<(), String> {
    let (ours, mut theirs) = duplex(LIMIT);
    let (task, _messages) = run(mux, ours);
    let mut bytes = Vec::new();
    for frame in frames {
        encode(frame, usize::MAX, &mut bytes).unwrap();
    }
    // It may have ended before it has read all.
    theirs.write_all(&bytes).await.ok();
    drop(theirs);
    task.await.unwrap()
}

fn data(of: u32, length: usize) -> Frame<'static, u32> {
    Frame::Data { stream: id(of), bytes: vec![7; length].into() }
}

#[tokio::test]
async fn a_side_that_breaks_the_rules_is_lost() {
    let window = usize::try_from(WINDOW).unwrap();
    let full = |of| (0..window / CHUNK).map(move |_| data(of, CHUNK));
    let eof = || Frame::Eof { stream: id(1) };
    let cases: Vec<(Vec<Frame<'_, u32>>, &str)> = vec![
        (vec![data(2, 1)], "bytes of a stream that is not open"),
        (vec![Frame::Data { stream: StreamId { of: 1, which: Which::Input }, bytes: vec![1].into() }], "not open"),
        (vec![Frame::Eof { stream: id(2) }], "the end of a stream that is not open"),
        (vec![eof(), eof()], "the end of a stream that is not open"),
        (vec![eof(), data(1, 1)], "bytes of a stream that is not open"),
        (full(1).chain([data(1, 1)]).collect(), "more bytes of a stream than it was allowed"),
        (vec![Frame::Credit { stream: id(9), bytes: 1 }], "more credit for a stream than there is room"),
        (vec![Frame::Credit { stream: id(9), bytes: u32::MAX }], "more credit for a stream than there is room"),
        (vec![data(1, CHUNK + 1)], "malformed"),
        (vec![data(1, 2 * LIMIT)], "over the limit"),
        (vec![Frame::Message(1)], "the connection ended"),
    ];
    for (frames, expected) in cases {
        let mux = mux();
        let _inlet = mux.inlet(id(1)).unwrap();
        let _outlet = mux.outlet(id(9)).unwrap();
        let why = against(&mux, &frames).await.unwrap_err();
        assert!(why.contains(expected), "{why}, and not {expected}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_takes_no_more_than_its_window_and_the_rest_goes_on() {
    let (one, other) = (mux(), mux());
    let (ours, theirs) = duplex(4096);
    let (_one, _) = run(&one, ours);
    let (_other, messages) = run(&other, theirs);
    let (mut full, mut free) = (one.outlet(id(1)).unwrap(), one.outlet(id(2)).unwrap());
    let (mut unread, mut read) = (other.inlet(id(1)).unwrap(), other.inlet(id(2)).unwrap());
    let stuck = tokio::spawn(async move { full.write(&vec![1; 4 << 20]).await });
    let writer = tokio::spawn(async move { free.write(&vec![2; 4 << 20]).await });
    let mut total = 0;
    while total < 4 << 20 {
        total += read.read().await.unwrap().len();
    }
    writer.await.unwrap().unwrap();
    one.say(&5u32).unwrap();
    while messages.try_recv() != Ok(5) {
        tokio::task::yield_now().await;
    }
    assert!(!stuck.is_finished());
    assert!(other.lock().inlets[&id(1)].waiting.len() <= usize::try_from(WINDOW).unwrap());
    // Its writer goes on when it is read, and is told when nobody will any more.
    assert!(!unread.read().await.unwrap().is_empty());
    drop(unread);
    assert_eq!(stuck.await.unwrap(), Err(Stop::Closed));
    // Both sides forget it.
    while one.lock().outlets.len() + other.lock().inlets.len() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_take_turns() {
    let (one, other) = (mux(), mux());
    let (ours, theirs) = duplex(4096);
    let mut inlets: Vec<_> = (0..8).map(|of| other.inlet(id(of)).unwrap()).collect();
    for of in 0..8 {
        let mut outlet = one.outlet(id(of)).unwrap();
        tokio::spawn(async move { outlet.write(&vec![0; 64 << 20]).await });
    }
    let (_one, _) = run(&one, ours);
    let (_other, _) = run(&other, theirs);
    // Each comes, though none comes to its end.
    for inlet in &mut inlets {
        assert!(!inlet.read().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nothing_is_lost_between_two_carriers() {
    let (one, other) = (mux(), mux());
    let mut outlet = one.outlet(id(1)).unwrap();
    let mut inlet = other.inlet(id(1)).unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        outlet.write(&sent).await.unwrap();
        outlet.finish().await;
    });
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(bytes) = inlet.read().await {
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
async fn what_is_lost_holds_nobody_up() {
    let mux = mux();
    let (mut inlet, mut outlet) = (mux.inlet(id(1)).unwrap(), mux.outlet(id(2)).unwrap());
    let reader = tokio::spawn(async move { inlet.read().await });
    let writer = tokio::spawn(async move { (outlet.write(&vec![0; 1 << 20]).await, outlet.finish().await) });
    let (ours, _theirs) = duplex(100);
    let (task, _) = run(&mux, ours);
    tokio::task::yield_now().await;
    mux.lose("a reason");
    mux.lose("another");
    assert_eq!(reader.await.unwrap(), None);
    assert_eq!(writer.await.unwrap().0, Err(Stop::Lost));
    assert_eq!(task.await.unwrap(), Err("a reason".to_owned()));
    assert!(mux.lock().inlets.is_empty() && mux.lock().outlets.is_empty());
    // What is said to nobody is no error, and is not kept.
    mux.say(&1u32).unwrap();
    assert!(mux.lock().messages.is_empty());
}

#[tokio::test]
async fn what_waits_for_one_that_reads_nothing_is_bounded() {
    let mux = mux();
    let error = (0..u32::MAX).find_map(|_| mux.say(&vec![0u8; 1 << 15]).err()).unwrap();
    assert!(matches!(error, frame::FrameError::TooLong { limit: MESSAGES, .. }));
    let mut open = Vec::new();
    let error = loop {
        match mux.inlet(id(u32::try_from(open.len()).unwrap())) {
            Ok(inlet) => open.push(inlet),
            Err(error) => break error,
        }
    };
    assert_eq!((open.len(), error), (STREAMS, frame::FrameError::TooMany { limit: STREAMS }));
}

proptest! {
    #[test]
    fn no_frames_make_it_panic_or_keep_more_than_a_window(frames in prop::collection::vec((0u8..5, 0u32..4, 1usize..CHUNK, any::<u32>()), 0..60)) {
        let frames: Vec<Frame<'_, u32>> = frames.into_iter().map(|(kind, of, length, number)| match kind {
            0 => Frame::Message(number),
            1 => data(of, length),
            2 => Frame::Credit { stream: id(of), bytes: number >> (number % 32) },
            3 => Frame::Eof { stream: id(of) },
            _ => Frame::Close { stream: id(of) },
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mux = mux();
            let _inlets: Vec<_> = (0..3).map(|of| mux.inlet(id(of)).unwrap()).collect();
            let _outlets: Vec<_> = (0..3).map(|of| mux.outlet(id(of)).unwrap()).collect();
            against(&mux, &frames).await.unwrap_err();
            let state = mux.lock();
            assert!(state.inlets.values().all(|inlet| inlet.waiting.len() <= usize::try_from(WINDOW).unwrap()));
        });
    }
}
