//! What a ring does with sockets.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::kernel::{BUFFER_BYTES, Interest, Kernel, Token, Wait};
use super::{Ring, RingListener, RingSocket};
use crate::net::socket::LooseSocket;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `test` on a ring.
fn on_ring(test: impl Future<Output = ()> + 'static) {
    let (done, ended) = mpsc::channel();
    let main = async move {
        let test = tokio::task::spawn_local(test);
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("it ends")
            .expect("it does not panic");
        done.send(()).unwrap();
    };
    Ring::new().expect("this kernel has rings").block_on(&runtime(), main).unwrap();
    ended.try_recv().expect("the test has come to its end");
}

/// A socket of the ring's, and its other end, which blocks.
fn pair() -> (RingSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (RingSocket::new(LooseSocket::Unix(ours)).unwrap(), theirs)
}

/// One whose conversation has begun.
fn batched() -> (RingSocket, UnixStream) {
    let (mut ours, theirs) = pair();
    ours.batch();
    (ours, theirs)
}

/// Has the socket wait for bytes, with room for a whole buffer.
fn begin_to_read(socket: &mut RingSocket) {
    let (mut cx, mut room) = (Context::from_waker(Waker::noop()), [0; BUFFER_BYTES]);
    assert!(Pin::new(socket).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
}

/// Comes to rest as a conversation does that another process is to go on with.
async fn rested(socket: &mut RingSocket) {
    poll_fn(|cx| socket.poll_rest(cx)).await;
}

/// How often it was woken.
struct Counts(AtomicU32);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns when the ring has been entered often enough for all that there was to be heard.
async fn turned() {
    let (mut later, mut other) = batched();
    for _ in 0..4 {
        other.write_all(b"x").unwrap();
        later.read_u8().await.unwrap();
        // The worker looks after idle sockets each tick.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

async fn sent(socket: &RingSocket) {
    poll_fn(|cx| socket.poll_sent(cx)).await;
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect()
}

#[test]
fn bytes_come_and_go_in_both_paces() {
    for begin in [pair, batched] {
        on_ring(async move {
            let (mut ours, mut theirs) = begin();
            for round in 0..300_u32 {
                theirs.write_all(&round.to_ne_bytes()).unwrap();
                assert_eq!(ours.read_u32_le().await.unwrap(), round);
                ours.write_all(&round.to_ne_bytes()).await.unwrap();
                sent(&ours).await;
                let mut answer = [0; 4];
                theirs.read_exact(&mut answer).unwrap();
                assert_eq!(answer, round.to_ne_bytes());
            }
        });
    }
}

#[test]
fn what_is_larger_than_a_buffer_arrives_whole_and_in_order() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        let all = pattern(3_000_000);
        let expected = all.clone();
        let writer = std::thread::spawn(move || {
            for piece in all.chunks(BUFFER_BYTES + 17) {
                theirs.write_all(piece).unwrap();
            }
        });
        let mut received = Vec::new();
        ours.read_to_end(&mut received).await.unwrap();
        writer.join().unwrap();
        assert!(received == expected);
    });
}

#[test]
fn more_sockets_than_buffers_lose_nothing() {
    on_ring(async {
        let mut pairs: Vec<_> = (0..400).map(|_| batched()).collect();
        // All of them wait first, so that the kernel has 400 receives and fewer buffers.
        for (ours, _) in &mut pairs {
            begin_to_read(ours);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        for (index, (_, theirs)) in pairs.iter_mut().enumerate() {
            theirs.write_all(&pattern(index + 1)).unwrap();
        }
        for (index, (ours, _)) in pairs.iter_mut().enumerate() {
            let mut received = vec![0; index + 1];
            ours.read_exact(&mut received).await.unwrap();
            assert_eq!(received, pattern(index + 1));
        }
    });
}

#[test]
fn a_full_socket_takes_the_rest_later_and_in_order() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        let all = pattern(2_000_000);
        let expected = all.clone();
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            std::thread::sleep(Duration::from_millis(20));
            theirs.read_to_end(&mut received).unwrap();
            received
        });
        // Sizes on both sides of what is copied, so that both ways of sending follow each other.
        let (mut rest, mut size) = (&all[..], 1);
        while !rest.is_empty() {
            let piece = &rest[..size.min(rest.len())];
            ours.write_all(piece).await.unwrap();
            rest = &rest[piece.len()..];
            size = size * 5 % 20_011 + 1;
        }
        sent(&ours).await;
        drop(ours);
        assert!(reader.join().unwrap() == expected);
    });
}

#[test]
fn what_was_written_is_sent_before_a_dropped_socket_closes() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        ours.write_all(b"goodbye").await.unwrap();
        drop(ours);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        assert_eq!(read.await.unwrap(), b"goodbye");
    });
}

#[test]
fn a_socket_dropped_while_it_waits_is_closed_and_its_number_takes_no_bytes_of_the_next() {
    on_ring(async {
        for round in 0..200_u8 {
            let (mut ours, mut theirs) = batched();
            let mut byte = [0];
            // The receive is queued, not submitted; the next socket is likely to have the same descriptor.
            begin_to_read(&mut ours);
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            drop(ours);
            let (mut next, mut other) = batched();
            other.write_all(&[round]).unwrap();
            assert_eq!(next.read_u8().await.unwrap(), round);
            let ended = tokio::task::spawn_blocking(move || theirs.read(&mut byte).unwrap());
            assert_eq!(ended.await.unwrap(), 0, "the other side hears that it is closed");
        }
    });
}

#[test]
fn an_idle_socket_is_watched_from_any_thread_and_takes_its_bytes_along() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        // A receive is under way when the conversation ends.
        begin_to_read(&mut ours);
        tokio::task::yield_now().await;
        assert!(ours.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        let elsewhere = std::thread::spawn(move || {
            let runtime = runtime();
            runtime.block_on(async {
                let begun = poll_fn(|cx| Poll::Ready(ours.poll_readable(cx))).await;
                assert!(begun.is_pending());
                theirs.write_all(b"news").unwrap();
                poll_fn(|cx| ours.poll_readable(cx)).await;
                let mut socket = ours.detach().unwrap().attach().unwrap();
                let mut bytes = [0; 4];
                socket.read_exact(&mut bytes).await.unwrap();
                bytes
            })
        });
        let told = tokio::task::spawn_blocking(move || elsewhere.join().unwrap()).await.unwrap();
        assert_eq!(&told, b"news");
    });
}

#[test]
fn bytes_that_came_before_a_conversation_ended_are_there_for_the_next_reader() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        begin_to_read(&mut ours);
        tokio::task::yield_now().await;
        theirs.write_all(b"late").unwrap();
        assert!(ours.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready());
        let mut bytes = [0; 4];
        ours.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"late");
        assert!(ours.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
    });
}

#[test]
fn at_rest_what_was_received_is_told_and_what_comes_then_stays_in_the_socket() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        begin_to_read(&mut ours);
        tokio::task::yield_now().await;
        theirs.write_all(b"early").unwrap();
        // Both may happen: that it was received, and that it is left where it is.
        rested(&mut ours).await;
        theirs.write_all(b"late").unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let (mut ahead, mut left) = (vec![0; ours.ahead()], [0; 16]);
        ours.read_exact(&mut ahead).await.unwrap();
        let count = super::slot::peek_now(ours.descriptor().unwrap(), &mut left).unwrap();
        assert_eq!([&ahead, &left[..count]].concat(), b"earlylate");
        // It goes on as before.
        let mut rest = vec![0; count];
        ours.read_exact(&mut rest).await.unwrap();
        ours.write_all(b"answer").await.unwrap();
        rested(&mut ours).await;
        let mut answer = [0; 6];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
    });
}

#[test]
fn bytes_received_ahead_fit_into_the_room_that_was_there_for_them() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        let mut room = [0; 8];
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut ours).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
        theirs.write_all(b"more than eight bytes").unwrap();
        ours.read_exact(&mut room).await.unwrap();
        assert_eq!((&room, ours.ahead()), (b"more tha", 0));
    });
}

#[test]
fn who_watches_a_socket_is_not_woken_for_what_was_read_before() {
    on_ring(async {
        let (mut ours, mut theirs) = pair();
        // A poll is under way for the reader; what it tells of is read by others before it is heard.
        begin_to_read(&mut ours);
        tokio::task::yield_now().await;
        theirs.write_all(b"x").unwrap();
        rustix::net::recv(ours.descriptor().unwrap(), &mut [0; 8], rustix::net::RecvFlags::empty()).unwrap();
        let counts = Arc::new(Counts(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&counts));
        assert!(ours.poll_readable(&mut Context::from_waker(&waker)).is_pending());
        turned().await;
        assert_eq!(counts.0.load(Ordering::SeqCst), 0);
        theirs.write_all(b"y").unwrap();
        turned().await;
        assert_eq!(counts.0.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn who_watched_a_socket_is_not_woken_once_it_lives_elsewhere() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        let counts = Arc::new(Counts(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&counts));
        assert!(ours.poll_readable(&mut Context::from_waker(&waker)).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Meanwhile this ring does nothing: it finds the news and the letter about the move together.
        let elsewhere = std::thread::spawn(move || {
            let main = async move {
                let socket = ours.detach().unwrap();
                theirs.write_all(b"for the next conversation").unwrap();
                drop((socket, theirs));
            };
            Ring::new().unwrap().block_on(&runtime(), main).unwrap();
        });
        elsewhere.join().unwrap();
        turned().await;
        assert_eq!(counts.0.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn the_other_side_hears_the_end_of_a_socket_that_its_first_ring_still_watched() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        // Idle here, and watched before long, with nobody to come back to it.
        assert!(ours.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (moved, other_ring) = mpsc::channel::<RingSocket>();
        let elsewhere = std::thread::spawn(move || {
            let ours = other_ring.recv().unwrap();
            Ring::new()
                .unwrap()
                .block_on(&runtime(), async move {
                    let socket = RingSocket::new(ours.detach().unwrap()).unwrap();
                    drop(socket);
                    std::future::pending::<()>().await;
                })
                .unwrap();
        });
        moved.send(ours).unwrap();
        let ended = tokio::task::spawn_blocking(move || theirs.read(&mut [0]).unwrap());
        assert_eq!(ended.await.unwrap(), 0);
        drop(elsewhere);
    });
}

#[test]
fn what_is_heard_while_a_socket_comes_to_rest_does_not_break_it() {
    on_ring(async {
        let ((mut speaker, mut listener), (mut watched, mut other)) = (batched(), pair());
        let mut cx = Context::from_waker(Waker::noop());
        for round in 0..3 {
            // It is waited for first and watched then: when it turns readable it is asked for once more.
            assert!(Pin::new(&mut watched).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending());
            turned().await;
            assert!(watched.poll_readable(&mut cx).is_pending());
            assert!(Pin::new(&mut speaker).poll_write(&mut cx, b"last").is_ready());
            other.write_all(b"x").unwrap();
            speaker.calm();
            speaker.write_all(b"word").await.unwrap();
            let mut heard = [0; 8];
            listener.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"lastword", "round {round}");
            assert_eq!(watched.read_u8().await.unwrap(), b'x');
            speaker.batch();
        }
    });
}

#[test]
fn the_end_and_a_broken_connection_show_on_both_sides() {
    on_ring(async {
        let (mut ours, theirs) = batched();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        ours.write_all(b"into the void").await.unwrap();
        sent(&ours).await;
        let refused =
            poll_fn(|cx| Pin::new(&mut ours).poll_write_vectored(cx, &[IoSlice::new(b"again")])).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_half_closed_connection_still_takes_an_answer() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        theirs.write_all(b"question").unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut question = String::new();
        ours.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        ours.write_all(b"answer").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn timers_and_other_threads_are_heard_while_there_is_traffic() {
    on_ring(async {
        let (mut ours, mut theirs) = batched();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while theirs.read(&mut byte).unwrap() == 1 {
                theirs.write_all(&byte).unwrap();
                said.send(()).unwrap();
            }
        });
        let timer = tokio::task::spawn_local(tokio::time::sleep(Duration::from_millis(30)));
        let mut rounds = 0_u32;
        while !timer.is_finished() {
            ours.write_all(b"x").await.unwrap();
            ours.read_u8().await.unwrap();
            heard.recv().await.unwrap();
            rounds += 1;
        }
        assert!(rounds > 10, "{rounds}");
        drop(ours);
        tokio::task::spawn_blocking(move || echo.join().unwrap()).await.unwrap();
    });
}

#[test]
fn timers_are_heard_beside_a_task_that_never_waits() {
    on_ring(async {
        let timer = tokio::task::spawn_local(tokio::time::sleep(Duration::from_millis(5)));
        while !timer.is_finished() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn what_was_written_last_is_sent_when_the_worker_ends() {
    let (handed, theirs) = mpsc::channel();
    let main = async move {
        let (mut ours, theirs) = batched();
        handed.send(theirs).unwrap();
        ours.write_all(b"last words").await.unwrap();
        // It is dropped with the worker.
        tokio::task::spawn_local(async move {
            let _ours = ours;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
    };
    Ring::new().unwrap().block_on(&runtime(), main).unwrap();
    let mut said = String::new();
    theirs.recv().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "last words");
}

#[test]
fn completions_for_which_there_is_no_room_are_brought_later() {
    let (one, mut other) = UnixStream::pair().unwrap();
    other.write_all(b"x").unwrap();
    let mut kernel = Kernel::new().unwrap();
    // More than the kernel keeps room for, all complete at once.
    for token in 0..10_000 {
        kernel.poll(one.as_raw_fd(), Interest::Readable, Token(token));
    }
    let mut completions = Vec::new();
    kernel.enter(Wait::No).unwrap();
    kernel.completions(&mut completions);
    assert!(kernel.is_overflown());
    while kernel.is_overflown() || kernel.unsubmitted() > 0 {
        kernel.enter(Wait::No).unwrap();
        kernel.completions(&mut completions);
    }
    let mut tokens: Vec<_> = completions.iter().map(|it| it.token.0).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn a_listening_socket_hears_of_everybody_and_is_closed_when_it_is_dropped() {
    on_ring(async {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(8).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let listener = RingListener::new(socket).unwrap();
        for come in [1, 3, 1] {
            let clients: Vec<_> = (0..come).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for client in clients {
                let (_, peer) = listener.accept(socket2::Socket::accept).await.unwrap();
                assert_eq!(peer.as_socket(), client.local_addr().ok());
            }
            let nobody = listener.accept(socket2::Socket::accept);
            assert!(tokio::time::timeout(Duration::from_millis(5), nobody).await.is_err());
        }
        drop(listener);
        while std::net::TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_receive_is_taken_back_also_behind_many_others_that_are_due() {
    on_ring(async {
        let mut others: Vec<_> = (0..100).map(|_| batched()).collect();
        let (mut ours, mut theirs) = batched();
        others.iter_mut().for_each(|(socket, _)| begin_to_read(socket));
        begin_to_read(&mut ours);
        turned().await;
        others.iter_mut().for_each(|(_, other)| other.write_all(b"x").unwrap());
        assert!(ours.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        ours.write_all(b"it is still of use").await.unwrap();
        sent(&ours).await;
        let mut heard = [0; 18];
        theirs.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"it is still of use");
    });
}
