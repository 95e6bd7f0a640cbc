//! Which certificates are trusted, and why a server's certificate was rejected.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};

use crate::error::{Error, Result, quoted};

/// The object identifier of a common name (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Trusts the certificates in `cacert`, or else the system's, including `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub fn tls_config(cacert: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let trusted = match cacert {
        Some(file) => certificates_in(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        let error = match cacert {
            Some(file) => Error::failed("reading the certificates in", file, "it has no usable certificate"),
            None => Error::summary("the system has no trusted certificates"),
        };
        return Err(error.hint("pass a PEM file to --cacert, or install the package ca-certificates"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fail = |e: &dyn fmt::Display| Error::summary(format!("setting up TLS for https: {e}"));
    let standard =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|e| fail(&e))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?
        .dangerous() // the verifier below calls rustls's own, and accepts one more case
        .with_custom_certificate_verifier(Arc::new(Verifier { standard, trusted }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates_in(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let operation = "reading the certificates in";
    let bytes = std::fs::read(file).map_err(|e| Error::io(operation, file, e))?;
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    certificates.map_err(|e| Error::failed(operation, file, format!("it is not PEM: {e}")))
}

/// Verifies as rustls does, with one exception: a certificate that is itself trusted is also accepted as a server's
/// certificate if it is marked as a certificate authority, or if it names the host only in its common name.
/// Certificates made by `openssl req -x509` are like that, and curl accepts them.
#[derive(Debug)]
struct Verifier {
    standard: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        match self.standard.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // rustls checks the dates before these two conditions, so the certificate has not expired.
            Err(e)
                if (is_authority(&e) || names_no_host(&e))
                    && self.trusted.iter().any(|trusted| trusted == certificate) =>
            {
                match rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
                    Err(e) if names_no_host(&e) && has_common_name(certificate, &name.to_str()) => {}
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
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.standard.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.standard.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.standard.supported_verify_schemes()
    }
}

/// True if the certificate was rejected because it is marked as a certificate authority.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// True if the certificate was rejected because it has no subjectAltName.
fn names_no_host(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(why) = error else { return false };
    matches!(why, CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty())
}

fn has_common_name(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(certificate) = x509_cert::Certificate::from_der(certificate) else { return false };
    let attributes = certificate.tbs_certificate().subject().iter_rdn().flat_map(|part| part.iter());
    let mut names =
        attributes.filter(|attribute| attribute.oid == COMMON_NAME).filter_map(|name| match name.value.tag() {
            Tag::Utf8String | Tag::PrintableString => std::str::from_utf8(name.value.value()).ok(),
            _ => None,
        });
    names.any(|name| name.eq_ignore_ascii_case(host))
}

/// Why a server's certificate was rejected, for the user. None if the error is not about the certificate.
pub fn why_rejected(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error else { return None };
    Some(match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".into(),
        CertificateError::UnknownIssuer => "it is not signed by a trusted authority".into(),
        CertificateError::NotValidForName => "it is for another host".into(),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it names no host: it has no subjectAltName, and a common name is not enough".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<String> = presented.iter().map(|name| quoted(Path::new(name))).collect();
            format!("it is for {}, not for {}", presented.join(", "), expected.to_str())
        }
        _ if is_authority(error) => "it belongs to a certificate authority that is not trusted".into(),
        other => {
            // The name of the error, without the bytes that its debug output contains.
            let debug = format!("{other:?}");
            let end = debug.find([' ', '(', '{']).unwrap_or(debug.len());
            format!("it cannot be verified ({})", &debug[..end])
        }
    })
}
