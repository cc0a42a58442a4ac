//! A bare forwarder on tokio: one current-thread runtime, a task for each client and its server, no protocol.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes that have been received from one side and not all been sent to the other.
struct Way {
    buffer: Box<[u8]>,
    sent: usize,
    received: usize,
}

impl Way {
    fn new() -> Self {
        Self { buffer: vec![0; super::BUFFER_BYTES].into_boxed_slice(), sent: 0, received: 0 }
    }

    /// Moves bytes until one of the two is not ready. It ends with an error: at the latest that of the end.
    fn poll(
        &mut self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.sent == self.received {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                (self.sent, self.received) = (0, buffer.filled().len());
                if self.received == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            let rest = &self.buffer[self.sent..self.received];
            self.sent += ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
        }
    }
}

pub fn forward(listener: TcpListener, port: u16) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(carry(client, port));
        }
    })
}

async fn carry(mut client: TcpStream, port: u16) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (mut there, mut back) = (Way::new(), Way::new());
    poll_fn(|cx| match there.poll(&mut from_client, &mut to_server, cx) {
        Poll::Ready(end) => Poll::Ready(end),
        Poll::Pending => back.poll(&mut from_server, &mut to_client, cx),
    })
    .await
}
