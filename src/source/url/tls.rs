//! TLS over whatever connection there is: whom to trust, and the transport.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};

use crate::error::{Error, Result, quoted};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Trusts the certificates in `cacert`, or else the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` included).
pub fn config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let trusted = match cacert {
        Some(file) => {
            let fail = |why: String| Error::failed("reading the certificates in", file, why);
            let bytes = std::fs::read(file).map_err(|e| Error::io("reading the certificates in", file, e))?;
            let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
            read.map_err(|e| fail(format!("it is not PEM: {e}")))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        let error = match cacert {
            Some(file) => Error::failed("reading the certificates in", file, "there is none"),
            None => Error::summary("this system has no certificates to trust"),
        };
        return Err(error.hint("--cacert FILE, or the package ca-certificates"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let broken = |e: &dyn fmt::Display| Error::summary(format!("setting up TLS: {e}"));
    let known = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| broken(&e))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| broken(&e))?
        .dangerous() // the verifier below asks rustls's own, and adds one case
        .with_custom_certificate_verifier(Arc::new(Verifier { known, trusted }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// As rustls verifies, and one thing more: a certificate that is itself among the trusted ones may be a
/// server's own, even if it calls itself an authority, or names its host only as its common name. So are
/// those that `openssl req -x509` makes, and curl takes them, too.
#[derive(Debug)]
struct Verifier {
    known: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        match self.known.verify_server_cert(own, between, name, ocsp, now) {
            // These two questions come after the dates.
            Err(e)
                if (calls_itself_an_authority(&e) || names_no_host(&e))
                    && self.trusted.iter().any(|trusted| trusted == own) =>
            {
                match rustls::client::verify_server_name(&ParsedCertificate::try_from(own)?, name) {
                    Err(e) if names_no_host(&e) && has_common_name(own, &name.to_str()) => {}
                    other => other?,
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}

fn calls_itself_an_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn names_no_host(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(why) = error else { return false };
    matches!(why, CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty())
}

fn has_common_name(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(certificate) = x509_cert::Certificate::from_der(certificate) else { return false };
    let parts = certificate.tbs_certificate().subject().iter_rdn().flat_map(|part| part.iter());
    let mut names = parts.filter(|part| part.oid == COMMON_NAME).filter_map(|part| match part.value.tag() {
        Tag::Utf8String | Tag::PrintableString => std::str::from_utf8(part.value.value()).ok(),
        _ => None,
    });
    names.any(|own| own.eq_ignore_ascii_case(name))
}

/// Why a server's certificate was refused, in words; None: the error is another one.
pub fn refusal(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error else { return None };
    Some(match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".into(),
        CertificateError::UnknownIssuer => "nobody that is trusted here has signed it".into(),
        CertificateError::NotValidForName => "it is for another name".into(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it names no host (a subjectAltName; a common name is not enough)".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<String> = presented.iter().map(|name| quoted(Path::new(name))).collect();
            format!("it is for {}, and not for {}", presented.join(", "), expected.to_str())
        }
        _ if calls_itself_an_authority(error) => "it is its own authority, and not one that is trusted here".into(),
        other => {
            // Its name, without the bytes in it.
            let name = format!("{other:?}");
            let end = name.find([' ', '(', '{']).unwrap_or(name.len());
            format!("it does not verify ({})", &name[..end])
        }
    })
}

/// Adds TLS to connections for https.
#[derive(Debug)]
pub struct TlsConnector(pub Arc<ClientConfig>);

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        below: Option<In>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        let Some(below) = below else { return Ok(None) };
        if !details.needs_tls() || below.is_tls() {
            return Ok(Some(Either::A(below)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_string()).map_err(|_| ureq::Error::Tls("no name for a certificate"))?;
        let mut tls = ClientConnection::new(self.0.clone(), name).map_err(|e| ureq::Error::Other(Box::new(e)))?;
        let mut socket = TransportAdapter::new(below.boxed(), details.current_time.clone());
        socket.set_timeout(details.timeout);
        tls.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(tls, socket) })))
    }
}

/// A connection inside TLS.
pub struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> std::result::Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
