//! Certificates for clients, by signing request: whom they may be for, and making them.

mod der;

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateSigningRequestParams, Issuer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::{ADMINISTRATORS, BACKDATED, NODE_USER, NODES, Pki, SERVERS, client_params};

/// Longest and shortest life of such a certificate.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(600);

/// Whom a signing request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name.
    pub name: String,
    /// Organizations.
    pub groups: Vec<String>,
}

impl Subject {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// One sentence for what is no request, or not signed by its own key.
    pub fn of(csr_pem: &[u8]) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem)
            .map_err(|error| format!("is no PEM: {error}"))?;
        if !matches!(
            pem.label.as_str(),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
        ) {
            return Err(format!(
                "PEM block type must be CERTIFICATE REQUEST, not {}",
                pem.label
            ));
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents)
            .map_err(|error| format!("is no signing request: {error}"))?;
        let subject = &request.certification_request_info.subject;
        // Texts that can't be read would be left out: better no certificate than one for somebody else.
        let text = |one: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            let text = one.as_str().map(str::to_owned);
            text.map_err(|error| format!("subject: {error}"))
        };
        let names = subject
            .iter_common_name()
            .map(text)
            .collect::<Result<Vec<_>, _>>()?;
        let groups = subject
            .iter_organization()
            .map(text)
            .collect::<Result<Vec<_>, _>>()?;
        match names.as_slice() {
            [name] if !name.is_empty() => Ok(Self {
                name: name.clone(),
                groups,
            }),
            _ => Err("subject: exactly one common name is needed, the user's".to_owned()),
        }
    }

    /// Why nobody gets a certificate for this subject by asking; `None` when it is all right. Servers may speak for any
    /// user, administrators may do anything, and machines become nodes by joining.
    pub fn refusal(&self) -> Option<String> {
        let kept = [ADMINISTRATORS, SERVERS, NODES];
        if let Some(group) = self
            .groups
            .iter()
            .find(|group| kept.contains(&group.as_str()))
        {
            return Some(format!(
                "use of {} signer with {group} group is not allowed",
                waggle_plan::signing_request::CLIENT_SIGNER
            ));
        }
        let node = self.name.starts_with(NODE_USER);
        node.then(|| {
            format!(
                "{:?} is a node's name: nodes get their certificates by joining",
                self.name
            )
        })
    }
}

impl Pki {
    /// Grants a client the certificate that it requests, for the requested subject and nothing else of the request.
    /// `lasts` is what it asks for.
    ///
    /// # Errors
    /// One sentence for a request that is malformed or that nobody may have.
    pub fn sign_client(
        &self,
        csr_pem: &[u8],
        lasts: Option<Duration>,
        now: Timestamp,
    ) -> Result<String, String> {
        let subject = Subject::of(csr_pem)?;
        if let Some(why) = subject.refusal() {
            return Err(why);
        }
        let text = std::str::from_utf8(csr_pem).map_err(|error| error.to_string())?;
        let mut request =
            CertificateSigningRequestParams::from_pem(text).map_err(|error| error.to_string())?;
        let mut params =
            client_params(&subject.name, None, now).map_err(|error| error.to_string())?;
        let lasts = lasts.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        params.not_after = params.not_before + BACKDATED + lasts;
        request.params = params;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.ca_key)
            .map_err(|error| error.to_string())?;
        let signed = request
            .signed_by(&issuer)
            .map_err(|error| error.to_string())?;
        let renamed = der::with_subject(signed.der(), &subject, &self.ca_key)?;
        Ok(der::pem("CERTIFICATE", &renamed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, UnixTime};
    use x509_parser::prelude::X509Certificate;

    fn request(name: &str, group: &str) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let second = DnType::CustomDnType(vec![2, 5, 4, 10]);
        params.distinguished_name.push(second, "second");
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    /// Made by a library that can say it; `openssl req -subj /CN=ann/O=a/O=b/O=c/O=d`.
    const FOUR_GROUPS: &str = include_str!("clients/four-groups.csr");

    #[test]
    fn a_client_may_be_in_many_groups() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(folder.path(), &["localhost".to_owned()], now).unwrap();
        let pem = pki.sign_client(FOUR_GROUPS.as_bytes(), None, now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        let subject = certificate.subject();
        let groups = subject.iter_organization().map(|one| one.as_str().unwrap());
        assert_eq!(groups.collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        let names = subject.iter_common_name().map(|one| one.as_str().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["ann"]);
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let shown = CertificateDer::from(pem.contents.clone());
        verifier
            .build()
            .unwrap()
            .verify_client_cert(&shown, &[], UnixTime::now())
            .unwrap();
    }

    #[test]
    fn long_values_are_encoded_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(folder.path(), &["localhost".to_owned()], now).unwrap();
        let groups: Vec<String> = (0..40)
            .map(|index| format!("{index}-{}", "g".repeat(50)))
            .collect();
        let subject = Subject {
            name: "é".repeat(30),
            groups,
        };
        let pem = pki
            .sign_client(request("ann", "devs").as_bytes(), None, now)
            .unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let renamed = der::with_subject(&pem.contents, &subject, &pki.ca_key).unwrap();
        let (_, certificate) = X509Certificate::from_der(&renamed).unwrap();
        let seen = certificate.subject().iter_organization();
        let seen: Vec<&str> = seen.map(|one| one.as_str().unwrap()).collect();
        assert_eq!(seen, subject.groups);
        assert!(der::with_subject(b"nothing", &subject, &pki.ca_key).is_err());
    }

    #[test]
    fn clients_get_what_they_ask_for_but_no_power_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(folder.path(), &["localhost".to_owned()], now).unwrap();
        let lasts = Some(Duration::from_secs(3600));
        let pem = pki
            .sign_client(request("ann", "devs").as_bytes(), lasts, now)
            .unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        let subject = certificate.subject();
        let groups: Vec<_> = subject
            .iter_organization()
            .map(|one| one.as_str().unwrap())
            .collect();
        assert_eq!(groups, ["devs", "second"]);
        assert_eq!(
            subject.iter_common_name().next().unwrap().as_str().unwrap(),
            "ann"
        );
        let ends = certificate.validity().not_after.timestamp();
        assert!((now.as_second() + 3500..=now.as_second() + 3600).contains(&ends));
        assert!(!certificate.is_ca());
        for (name, group) in [
            ("ann", "system:masters"),
            ("ann", "system:waggle-servers"),
            ("ann", "system:nodes"),
            ("system:node:node1", "devs"),
        ] {
            let refused = pki.sign_client(request(name, group).as_bytes(), None, now);
            assert!(refused.is_err(), "{name} {group}");
        }
        assert!(Subject::of(b"nothing").is_err());
        let whole = request("ann", "devs");
        let broken = whole.replace("AAA", "BBB");
        assert!(broken == whole || pki.sign_client(broken.as_bytes(), None, now).is_err());
    }
}
