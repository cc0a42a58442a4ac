//! Asks a running pgweir whether it takes clients: what a container's health check runs, where there is no curl.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longest time for each step of the conversation.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks `/ready` at this address of `http_listen`.
///
/// Errors: why it is not ready, or was not reached.
pub fn ask(address: &str) -> Result<(), String> {
    match status(address) {
        Ok(line) if line.split(' ').nth(1) == Some("200") => Ok(()),
        Ok(line) => Err(format!("{address}: not ready: {line}")),
        Err(error) => Err(format!("{address}: {error}")),
    }
}

fn status(address: &str) -> io::Result<String> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "no such address");
    for place in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, PATIENCE).and_then(|stream| request(stream, address)) {
            Ok(line) => return Ok(line),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn request(mut stream: TcpStream, host: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_status_decides() {
        for (answer, is_ready) in [
            ("HTTP/1.1 200 OK\r\n\r\nready", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining", false),
            ("", false),
        ] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let served = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(ask(&address).is_ok(), is_ready, "{answer}");
            served.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_not_ready() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(ask(&address).unwrap_err().starts_with(&address));
    }
}
