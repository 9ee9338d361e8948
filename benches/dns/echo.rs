//! The floor, on a thread.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use crate::World;
use crate::peers::Running;

/// Its thread's name, by which its CPU time is found.
const THREAD: &str = "floor-echo";

pub(crate) fn start(world: &World, address: SocketAddr) -> Running {
    let socket = world.netns.run(|| UdpSocket::bind(address).unwrap());
    let thread = thread::Builder::new()
        .name(THREAD.to_owned())
        .spawn(move || crate::sys::echo(&socket))
        .unwrap();
    let last_word = world.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    last_word.connect(address).unwrap();
    let end = move || {
        last_word.send(&[0]).unwrap();
        thread.join().unwrap();
    };
    Running::thread(address, THREAD, end)
}
