//! Devices behind a server on this machine.

use std::error::Error;
use std::net::TcpListener;

use burn::remote::RemoteHost;
use burn::server::{RemoteServer, WebSocketTransport};
use burn::tensor::Device;
use tokio::runtime::{Builder, Runtime};

/// A server on the loopback interface, and its devices, each a CPU device of its own.
///
/// The server runs as long as this value lives.
pub struct Loopback {
    devices: Vec<Device>,
    _runtime: Runtime,
}

impl Loopback {
    /// Starts a server with `devices` devices.
    ///
    /// # Errors
    ///
    /// Fails if no port is free, or if the server does not answer.
    pub fn start(devices: usize) -> Result<Self, Box<dyn Error>> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = RemoteHost::websocket(&format!("ws://{}", listener.local_addr()?));
        let server = RemoteServer::new(vec![Device::flex(); devices]);
        runtime.spawn(server.serve_async(WebSocketTransport::from_listener(listener)));
        Ok(Self {
            devices: host.devices()?.into_vec(),
            _runtime: runtime,
        })
    }

    /// The devices, with autodiff.
    pub fn devices(&self) -> Vec<Device> {
        let devices = self.devices.iter().cloned();
        devices.map(Device::autodiff).collect()
    }
}
