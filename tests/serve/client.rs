//! As much of an HTTP client as shows what a server does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::running::PATIENCE;

/// Where a server is, and what it is sent every time.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    headers: Vec<(String, String)>,
}

/// A response whose body is yet to be read.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    from: BufReader<TcpStream>,
}

/// A whole response.
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, headers: Vec::new() }
    }

    /// The same that always sends another header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The whole response.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.send(method, path, headers, body).read()
    }

    /// The whole response to a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.stream(path, body).read()
    }

    /// The response to a JSON body as it comes.
    pub fn stream(&self, path: &str, body: &Value) -> Response {
        let json = [("Content-Type", "application/json")];
        self.send("POST", path, &json, body.to_string().as_bytes())
    }

    /// A request that was sent; nothing of the response is read.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = headers.iter().copied().chain(own).collect();
        let has = |wanted: &str| all.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        if !has("Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !has("Content-Length") && !has("Transfer-Encoding") && !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in all {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).unwrap();
        // The server may have answered already, without reading on.
        let _ = stream.write_all(body);
        stream
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Response::read_head(self.open(method, path, headers, body))
    }
}

impl Response {
    /// What a server begins to answer.
    pub fn read_head(stream: TcpStream) -> Self {
        let mut from = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(from.read_line(&mut line).unwrap() > 0, "the connection ended: {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &String| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { status, headers: lines[1..].iter().map(header).collect(), from }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The next part of a body in parts; `None` at its end.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.from.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.from.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    /// The rest.
    pub fn read(mut self) -> Reply {
        let mut body = Vec::new();
        match self.header("transfer-encoding") {
            Some(_) => {
                while let Some(chunk) = self.chunk() {
                    body.extend(chunk);
                }
            }
            None => {
                let length = self.header("content-length").map_or(0, |n| n.parse().unwrap());
                body.resize(length, 0);
                self.from.read_exact(&mut body).unwrap();
            }
        }
        Reply { status: self.status, headers: self.headers, body }
    }

    /// The data of the next event of a stream; `None` at its end. An event comes as one chunk.
    pub fn event(&mut self) -> Option<String> {
        loop {
            let chunk = String::from_utf8(self.chunk()?).unwrap();
            // Comments keep a connection alive.
            if let Some(data) = chunk.strip_prefix("data: ") {
                return Some(data.strip_suffix("\n\n").unwrap().to_owned());
            }
        }
    }

    /// The objects of a stream that ends as it should.
    pub fn chunks(mut self) -> Vec<Value> {
        assert_eq!(self.status, 200);
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let mut events: Vec<String> = std::iter::from_fn(|| self.event()).collect();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self, status: u16) -> String {
        let text = String::from_utf8(self.body.clone()).unwrap();
        assert_eq!(self.status, status, "{text}");
        text
    }

    pub fn json(&self, status: u16) -> Value {
        let text = self.text(status);
        assert_eq!(self.header("content-type"), Some("application/json"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The message of an error, whose field and code are these.
    pub fn error(&self, status: u16, param: Option<&str>, code: Option<&str>) -> String {
        let error = self.json(status)["error"].clone();
        assert_eq!((error["param"].as_str(), error["code"].as_str()), (param, code), "{error}");
        assert!(error["type"].is_string(), "{error}");
        error["message"].as_str().unwrap().to_owned()
    }
}

fn find<'h>(headers: &'h [(String, String)], wanted: &str) -> Option<&'h str> {
    headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}
