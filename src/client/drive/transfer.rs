//! One socket and one pipe: what is received goes in, what is ready goes out.
//!
//! It decides nothing. Invariant: a pipe is told of just what the socket took or gave.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;
use crate::session::pipe::{Pipe, SLICES_MAX, Spare};

/// A side's readiness to take bytes that are already in a TLS session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    Done,
    Due,
}

/// Receives what is there into a pipe, but no more than so many bytes. `Ok(0)` is the end.
pub(super) fn receive(
    stream: &mut Stream,
    (pipe, most): (&mut Pipe, usize),
    spare: &mut Spare,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let space = pipe.space(spare);
    let most = most.min(space.len());
    let mut buffer = ReadBuf::new(&mut space[..most]);
    match Pin::new(stream).poll_read(cx, &mut buffer) {
        Poll::Pending => {
            pipe.tidy(spare);
            Poll::Pending
        }
        Poll::Ready(result) => {
            let count = buffer.filled().len();
            pipe.filled(count);
            Poll::Ready(result.map(|()| count))
        }
    }
}

/// Receives what nobody wants. `Ok(0)` is the end.
pub(super) fn skip(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut ignored = [0; 64];
    let mut buffer = ReadBuf::new(&mut ignored);
    Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
}

/// Sends what a pipe has ready, so many bytes at most, as far as the socket takes it.
pub(super) fn send(
    stream: &mut Stream,
    (pipe, most): (&Pipe, usize),
    flush: &mut Flush,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if pipe.ready() > 0 {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = pipe.slices(&mut slices);
        let first = slices[..used].iter().find(|it| pipe.ready() > most && !it.is_empty());
        let sent = match (first, &slices[..used]) {
            (Some(first), _) => Pin::new(&mut *stream).poll_write(cx, &first[..first.len().min(most)]),
            // The kernel takes one slice more cheaply as such.
            (None, [one]) => Pin::new(&mut *stream).poll_write(cx, one),
            (None, several) => Pin::new(&mut *stream).poll_write_vectored(cx, several),
        };
        if let Poll::Ready(Ok(1..)) = sent {
            *flush = Flush::Due;
            return sent;
        }
        if let Poll::Ready(Ok(0)) = sent {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if sent.is_ready() {
            return sent;
        }
    }
    if *flush == Flush::Due && stream.is_tls() {
        std::task::ready!(Pin::new(stream).poll_flush(cx))?;
    }
    *flush = Flush::Done;
    Poll::Ready(Ok(0))
}
