//! Connections: how many there may be, how slow they may be, and how they end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{watch, Semaphore};
use tokio_io_timeout::TimeoutStream;

use crate::server::limits::{
    END_TIME, HEAD_TIME, MAX_CONNECTIONS, MAX_HEAD, MAX_HEADERS, WRITE_TIME,
};

/// How long to wait before the next connection is accepted when accepting one failed, most likely
/// because the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections of `listeners`, of which there is at least one, until `stop`. Requests that are
/// under way then have a few more seconds.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, stop: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let (ending, _) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            let next = listeners.iter().map(|listener| Box::pin(listener.accept()));
            Some((permit, select_all(next).await.0))
        };
        let (permit, accepted) = tokio::select! {
            Some(accepted) = accepted => accepted,
            () = &mut stop => break,
            else => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, ending) = (router.clone(), ending.subscribe());
                tokio::spawn(async move {
                    // An error of a connection concerns only its client.
                    let _ = connection(stream, router, ending).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listeners);
    ending.send_replace(true);
    let _ = tokio::time::timeout(END_TIME, permits.acquire_many(MAX_CONNECTIONS)).await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    // Each token leaves at once.
    stream.set_nodelay(true)?;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), service));
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = ending.wait_for(|ending| *ending) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::{Read, Write};

    use axum::routing::get;

    use super::*;
    use crate::server::http::router::worded;
    use crate::server::DIALECTS;

    async fn fails() -> &'static str {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_handler_that_panics_fails_alone() {
        let routes = Router::new().route("/fails", get(fails)).route("/works", get("well"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(vec![listener], worded(routes, &DIALECTS), pending()));
        let asked = tokio::task::spawn_blocking(move || {
            ["/fails", "/works"].map(|path| {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).unwrap();
                reply
            })
        });
        let [failed, worked] = asked.await.unwrap();
        assert!(failed.starts_with("HTTP/1.1 500 ") && failed.contains("server_error"), "{failed}");
        assert!(worked.starts_with("HTTP/1.1 200 ") && worked.ends_with("well"), "{worked}");
    }
}
