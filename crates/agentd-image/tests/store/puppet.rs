//! Stands in for a server: says what it is told to say, and remembers what it was asked.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

/// What ends it.
const END: &str = "end";

/// A server of HTTP.
pub struct Puppet {
    pub address: SocketAddr,
    heard: JoinHandle<Vec<String>>,
}

impl Puppet {
    /// Answers requests for these paths, and hangs up at all others.
    pub fn start(answers: HashMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = thread::spawn(move || {
            let asked = listener.incoming().map(|caller| serve(caller.unwrap(), &answers));
            asked.take_while(|line| line != END).collect()
        });
        Self { address, heard }
    }

    /// The first line of each request until now.
    pub fn heard(self) -> Vec<String> {
        writeln!(TcpStream::connect(self.address).unwrap(), "{END}").unwrap();
        self.heard.join().unwrap()
    }
}

/// Serves one request and returns its first line. A caller may hang up at any time.
fn serve(mut caller: TcpStream, answers: &HashMap<&'static str, Vec<u8>>) -> String {
    let mut lines = BufReader::new(caller.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    if let Some(answer) = first.split(' ').nth(1).and_then(|path| answers.get(path)) {
        lines.find(String::is_empty);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
        let _ = caller.write_all(&[head.as_bytes(), answer].concat());
    }
    first
}
