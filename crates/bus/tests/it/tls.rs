//! Mutual TLS to the bus, and certificates replaced while connected.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::config::TlsConfig;
use bus::{Bus, BusConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::kit::*;

on_each_server!(mutual_tls_is_demanded_and_certificates_are_replaced_without_a_restart);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, dir: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        let path = dir.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        set_mode(&path, 0o600);
    }
}

async fn mutual_tls_is_demanded_and_certificates_are_replaced_without_a_restart(program: Option<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (ours, foreign) = (Authority::new(), Authority::new());
    std::fs::write(at("ca.pem"), &ours.pem).unwrap();
    ours.issue(dir.path(), "server");
    ours.issue(dir.path(), "client");
    let tls = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let server = start_with(program, &tls);
    let with = |cert: bool| BusConfig {
        tls: TlsConfig {
            require: true,
            ca: Some(at("ca.pem")),
            cert: cert.then(|| at("client.pem")),
            key: cert.then(|| at("client.key")),
        },
        ..config(&server)
    };
    let bus = Bus::connect(&with(true), "test").await.unwrap();
    bus.connected(LIMIT).await.unwrap();

    let without = Bus::connect(&with(false), "test").await.unwrap();
    without.connected(Duration::from_millis(300)).await.unwrap_err();
    set_mode(&at("client.key"), 0o644);
    Bus::connect(&with(true), "test").await.unwrap_err();

    // A certificate of a stranger is refused; the next one from the right authority is taken by the same connection.
    foreign.issue(dir.path(), "client");
    let bus = Bus::connect(&with(true), "test").await.unwrap();
    bus.connected(Duration::from_millis(300)).await.unwrap_err();
    ours.issue(dir.path(), "client");
    bus.connected(LIMIT).await.unwrap();
}
