//! A program that makes itself known to the hub in two calls.
//!
//! ```sh
//! cargo run -p linchpin-instance --example embed
//! linchpin status embed          # in another terminal
//! ```
#![expect(clippy::print_stdout, reason = "an example prints")]

use linchpin_instance::Instance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The program's own work: a minimal web server.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(listener));

    // The library does not listen for signals, so the program does. It stops on any of these.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;

    // The first call: from here on the hub knows the program.
    let instance = Instance::builder("embed").version("1.0.0").service("web", &url).start().await?;
    println!("{} serves {url} and is registered; Ctrl-C or `linchpin stop embed` ends it", instance.record().name);

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
        () = instance.stop_requested() => println!("the hub asked us to stop"),
    }

    // The second call: from here on it does not any more.
    instance.stop().await?;
    Ok(())
}

async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n").await;
        });
    }
}
