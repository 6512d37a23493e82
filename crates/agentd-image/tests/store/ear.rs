//! Stands in for a server: answers nothing, and remembers what it was asked.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

/// What ends it.
const END: &str = "end";

/// A listener that remembers.
pub struct Ear {
    pub address: SocketAddr,
    heard: JoinHandle<Vec<String>>,
}

impl Ear {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = thread::spawn(move || {
            let first_lines = listener.incoming().map(|caller| {
                let mut line = String::new();
                // A caller may hang up first.
                let _ = BufReader::new(caller.unwrap()).read_line(&mut line);
                line.trim_end().to_owned()
            });
            first_lines.take_while(|line| line != END).collect()
        });
        Self { address, heard }
    }

    /// The first line of each request until now.
    pub fn heard(self) -> Vec<String> {
        writeln!(TcpStream::connect(self.address).unwrap(), "{END}").unwrap();
        self.heard.join().unwrap()
    }
}
