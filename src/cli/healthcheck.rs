//! `catchment healthcheck`: an image without a shell has no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Failure;

const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn run(mut address: SocketAddr) -> Result<(), Failure> {
    if address.ip().is_unspecified() {
        // 0.0.0.0 is where a worker listens, not where it can be asked.
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let reply = ask(address).map_err(|error| {
        Failure::new(
            1,
            format!("no worker answers at {address}: {error}; is telemetry.listen set to it?"),
        )
    })?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    if head.split(' ').nth(1) == Some("200") {
        println!("live");
        return Ok(());
    }
    Err(Failure::new(1, format!("not live: {}", body.trim())))
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}
