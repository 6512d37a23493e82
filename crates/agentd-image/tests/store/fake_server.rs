//! An HTTP server with fixed answers, which records the requests that it received.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

/// The request line that ends the server.
const END: &str = "end";

/// A running server.
pub struct FakeServer {
    pub address: SocketAddr,
    requests: JoinHandle<Vec<String>>,
}

impl FakeServer {
    /// Starts a server that answers requests for these paths and closes the connection of all others.
    pub fn start(answers: HashMap<&'static str, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = thread::spawn(move || {
            let lines = listener.incoming().map(|caller| serve(caller.unwrap(), &answers));
            lines.take_while(|line| line != END).collect()
        });
        Self { address, requests }
    }

    /// Ends the server and returns the first line of each request.
    pub fn requests(self) -> Vec<String> {
        writeln!(TcpStream::connect(self.address).unwrap(), "{END}").unwrap();
        self.requests.join().unwrap()
    }
}

/// Serves one request and returns its first line. A client may disconnect at any time.
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
