//! Copies to a filesystem that lacks much, exFAT, and through a SOCKS proxy.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::matrix::copy_without_links;
use common::*;

/// exFAT has no links, owners, modes or extended attributes.
#[test]
fn copies_on_exfat_are_exact() {
    needs_root_and!("mkfs.exfat", "mount.exfat-fuse", "losetup");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 64 << 20, 512);
    tool("mkfs.exfat", [disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &["-t", "exfat-fuse", &name], Some(disk));
    copy_without_links(&mount.at, "exFAT");
}

/// A server that is ended with the test.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_socks_proxy_is_used() {
    needs_root_and!("microsocks");
    let server = web::Server::of(content(3_000_001), |_| None);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = ["-i", "127.0.0.1", "-u", "user", "-P", "secret", "-p", &port.to_string()];
    let proxy = Command::new("microsocks").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let proxy = Proxy(proxy);
    wait_until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let run = |password: &str| {
        let mut command = dio_cp();
        command.env("all_proxy", format!("socks5://user:{password}@127.0.0.1:{port}"));
        command.args(["--retry", "0"]).arg(server.url("/f")).arg(&dst).output().unwrap()
    };
    let output = run("secret");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &content(3_000_001));
    fs::remove_file(&dst).unwrap();
    assert_eq!(run("wrong").status.code(), Some(1));
    drop(proxy);
    assert_eq!(run("secret").status.code(), Some(1));
    assert!(!dst.exists());
}
