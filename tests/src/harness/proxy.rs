//! A TCP door that can be shut: how a test takes one service away from one gateway.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Passes connections on while it is open; while it is cut, none gets through and those that did are closed.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    open: Arc<watch::Sender<bool>>,
    stop: CancellationToken,
}

impl Proxy {
    /// A door to `target` (`host:port`), open.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let open = Arc::new(watch::Sender::new(true));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let accept = {
            let (target, open, stop) = (target.to_owned(), open.clone(), stop.clone());
            let tasks = tasks.clone();
            async move {
                while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await
                {
                    let connection = pass(client, target.clone(), open.subscribe());
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(connection).await });
                }
            }
        };
        tasks.spawn(accept);
        Ok(Self {
            address,
            open,
            stop,
        })
    }

    /// `host:port` of the door.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Shuts the door and closes what is open.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Opens it again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn pass(mut client: TcpStream, target: String, mut open: watch::Receiver<bool>) {
    if !*open.borrow_and_update() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    tokio::select! {
        // Whichever side ends, both are dropped; an error is the end of the connection as well.
        _ended = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _cut = open.wait_for(|open| !open) => {}
    }
}
