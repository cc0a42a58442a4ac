//! Health and metrics over HTTP: `/live`, `/ready`, `/metrics`.
//!
//! Owns the answers and the connections' limits. It takes no orders: nothing can be changed by HTTP.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Admin, View, metrics};
use crate::net::listen::Bound;
use crate::net::{Listener, TcpOptions};

/// How long a client of ours may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A request's head fits into this.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// HTTP connections that may be open at once; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// How long one may be used for further requests, so that others have their turn.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How long the last answer may take from then on: who does not read it keeps no place.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(10);

/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds `http_listen`: `127.0.0.1:9127`, `[::1]:9127`, or `:9127` and `*:9127` for all of IPv4's addresses.
///
/// Errors: the address makes no sense, or the place is taken.
pub fn bind(http_listen: &str) -> io::Result<Bound> {
    let (host, port) = http_listen.rsplit_once(':').unwrap_or(("", http_listen));
    let port: u16 = port.trim().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("http_listen: \"{http_listen}\" has no port"))
    })?;
    let host = match host.trim() {
        "" | "*" => "0.0.0.0",
        host => host.trim_start_matches('[').trim_end_matches(']'),
    };
    Bound::from_fd(std::net::TcpListener::bind((host, port))?.into())
}

/// Accepts HTTP connections for ever, each served by a task of its own on the current runtime.
pub async fn run(admin: Arc<Admin>, listener: Listener, options: TcpOptions) {
    loop {
        let Ok(permit) = Arc::clone(&admin.http_connections).acquire_owned().await else { return };
        match listener.accept(&options).await.and_then(|it| it.stream.attach()) {
            Ok(stream) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    serve(admin, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one HTTP connection until it ends.
pub async fn serve<S>(admin: Arc<Admin>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&admin, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = match timeout(CONNECTION_MAX, connection.as_mut()).await {
        Ok(served) => Ok(served),
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER_MAX, connection).await
        }
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection ended"),
        Err(_) => tracing::debug!("HTTP connection ended: its answer is not read"),
    }
}

fn respond(admin: &Admin, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    /// Prometheus's text format.
    const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into());
    }
    match path {
        "/metrics" => response(StatusCode::OK, METRICS, metrics::render(&View::of(admin))),
        "/live" => response(StatusCode::OK, TEXT, "live\n".into()),
        "/ready" => match admin.source.ready() {
            Ok(()) => response(StatusCode::OK, TEXT, "ready\n".into()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/" => {
            let text = format!("{}\n/metrics\n/live\n/ready\n", super::VERSION);
            response(StatusCode::OK, TEXT, text)
        }
        _ => response(StatusCode::NOT_FOUND, TEXT, "not found\n".into()),
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
