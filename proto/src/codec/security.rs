//! Transport sockets: who is who on a connection (gRFC A29).
//!
//! Everything that restricts whom to trust and is not enforced is refused, whether or not this
//! process uses xDS credentials.

use super::Reason;
use super::at::{At, Result};
use super::matching::{decode_string, encode_string};
use crate::resource::{CertificateInstance, DownstreamTls, StringMatcher, UpstreamTls};
use crate::wire::Any;
use crate::wire::core::{TransportSocket, transport_socket::ConfigType};
use crate::wire::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
    DownstreamTlsContext, UpstreamTlsContext, certificate_validation_context as validation,
    common_tls_context::{
        CertificateProviderInstance, CombinedCertificateValidationContext, ValidationContextType,
    },
    downstream_tls_context::OcspStaplePolicy,
};

/// The name that gRPC and Envoy expect of a TLS transport socket.
const SOCKET_NAME: &str = "envoy.transport_sockets.tls";

/// TLS allows no longer server name.
const MAX_SNI: usize = 255;

pub(super) fn decode_upstream(at: &At<'_>, socket: TransportSocket) -> Result<UpstreamTls> {
    let context: UpstreamTlsContext = unpack_socket(at, socket)?;
    let at = at.field("typed_config");
    if context.sni.len() > MAX_SNI {
        let place = at.field("sni");
        return Err(place.out_of_range(context.sni.len(), "at most 255 bytes"));
    }
    // Without it a certificate for any other name would do.
    at.refuse("auto_sni_san_validation", context.auto_sni_san_validation)?;
    at.ignore(
        "sni",
        !context.sni.is_empty(),
        "the server name sent is the endpoint's",
    );
    at.ignore(
        "auto_host_sni",
        context.auto_host_sni,
        "the server name sent is the endpoint's",
    );
    at.ignore(
        "allow_renegotiation",
        context.allow_renegotiation,
        "connections never renegotiate",
    );
    at.ignore(
        "max_session_keys",
        context.max_session_keys.is_some(),
        "session resumption has its own limit",
    );
    at.ignore(
        "enforce_rsa_key_usage",
        context.enforce_rsa_key_usage.is_some(),
        "key usage is always checked",
    );

    let at = at.field("common_tls_context");
    let common = decode_common(&at, at.required(context.common_tls_context)?)?;
    Ok(UpstreamTls {
        roots: at.field("validation_context").required(common.roots)?,
        identity: common.identity,
        sans: common.sans,
    })
}

pub(super) fn decode_downstream(at: &At<'_>, socket: TransportSocket) -> Result<DownstreamTls> {
    let context: DownstreamTlsContext = unpack_socket(at, socket)?;
    let at = at.field("typed_config");
    at.refuse("require_sni", context.require_sni == Some(true))?;
    at.refuse(
        "ocsp_staple_policy",
        context.ocsp_staple_policy != OcspStaplePolicy::LenientStapling as i32,
    )?;
    at.ignore(
        "session_ticket_keys_type",
        context.session_ticket_keys_type.is_some(),
        "session tickets are handled by the TLS library",
    );
    at.ignore(
        "session_timeout",
        context.session_timeout.is_some(),
        "sessions have the TLS library's lifetime",
    );

    let require_client_certificate = context.require_client_certificate == Some(true);
    let at = at.field("common_tls_context");
    let common = decode_common(&at, at.required(context.common_tls_context)?)?;
    if !common.sans.is_empty() {
        let at = at.field("validation_context");
        let at = at.field("match_subject_alt_names");
        return Err(at.unsupported("matching names of client certificates"));
    }
    if require_client_certificate && common.roots.is_none() {
        let place = at.field("validation_context");
        return Err(
            place.rule("require_client_certificate needs a ca_certificate_provider_instance")
        );
    }
    Ok(DownstreamTls {
        identity: at
            .field("tls_certificate_provider_instance")
            .required(common.identity)?,
        roots: common.roots,
        require_client_certificate,
    })
}

fn unpack_socket<M: prost::Name + Default>(at: &At<'_>, socket: TransportSocket) -> Result<M> {
    // The type would suffice, but gRFC A29 demands both.
    if socket.name != SOCKET_NAME {
        let place = at.field("name");
        return Err(place.unsupported(format!("the transport socket {:?}", socket.name)));
    }
    let at = at.field("typed_config");
    match socket.config_type {
        Some(ConfigType::TypedConfig(any)) => at.unpack(&any),
        None => Err(at.fault(Reason::Missing)),
    }
}

/// What both sides have in common.
struct Common {
    identity: Option<CertificateInstance>,
    roots: Option<CertificateInstance>,
    sans: Vec<StringMatcher>,
}

fn decode_common(at: &At<'_>, common: CommonTlsContext) -> Result<Common> {
    at.refuse("tls_params", common.tls_params.is_some())?;
    at.refuse("custom_handshaker", common.custom_handshaker.is_some())?;
    // It chooses what the peer gets to judge, not whom we trust.
    at.ignore(
        "custom_tls_certificate_selector",
        common.custom_tls_certificate_selector.is_some(),
        "the certificate provider's certificate is shown",
    );
    at.ignore(
        "alpn_protocols",
        common.alpn_protocols.iter().any(|p| p != "h2"),
        "only h2 is offered",
    );
    at.ignore("key_log", common.key_log.is_some(), "keys are never logged");
    let identity = decode_identity(at, &common)?;
    let (roots, sans) = match common.validation_context_type {
        None => (None, Vec::new()),
        Some(validation) => decode_validation(at, validation)?,
    };
    Ok(Common {
        identity,
        roots,
        sans,
    })
}

fn decode_identity(at: &At<'_>, common: &CommonTlsContext) -> Result<Option<CertificateInstance>> {
    if common.tls_certificate_provider_instance.is_some()
        || common
            .tls_certificate_certificate_provider_instance
            .is_some()
    {
        note_other_identities(at, common);
    }
    if let Some(instance) = &common.tls_certificate_provider_instance {
        let place = at.field("tls_certificate_provider_instance");
        return decode_instance(&place, instance).map(Some);
    }
    if let Some(instance) = &common.tls_certificate_certificate_provider_instance {
        let place = at.field("tls_certificate_certificate_provider_instance");
        return decode_deprecated(&place, instance).map(Some);
    }
    // A certificate that we cannot show must not silently become none at all.
    at.refuse("tls_certificates", !common.tls_certificates.is_empty())?;
    at.refuse(
        "tls_certificate_sds_secret_configs",
        !common.tls_certificate_sds_secret_configs.is_empty(),
    )?;
    at.refuse(
        "tls_certificate_certificate_provider",
        common.tls_certificate_certificate_provider.is_some(),
    )?;
    Ok(None)
}

/// Certificates beside the one of the bootstrap's provider are not shown.
fn note_other_identities(at: &At<'_>, common: &CommonTlsContext) {
    const SHOWN: &str = "the certificate provider's certificate is shown";
    at.ignore(
        "tls_certificates",
        !common.tls_certificates.is_empty(),
        SHOWN,
    );
    at.ignore(
        "tls_certificate_sds_secret_configs",
        !common.tls_certificate_sds_secret_configs.is_empty(),
        SHOWN,
    );
    at.ignore(
        "tls_certificate_certificate_provider",
        common.tls_certificate_certificate_provider.is_some(),
        SHOWN,
    );
}

type RootsAndNames = (Option<CertificateInstance>, Vec<StringMatcher>);

fn decode_validation(at: &At<'_>, wire: ValidationContextType) -> Result<RootsAndNames> {
    use ValidationContextType as Wire;
    match wire {
        Wire::ValidationContext(context) => {
            let at = at.field("validation_context");
            let (roots, sans) = decode_validation_context(&at, context)?;
            let place = at.field("ca_certificate_provider_instance");
            Ok((Some(place.required(roots)?), sans))
        }
        Wire::CombinedValidationContext(combined) => {
            decode_combined(&at.field("combined_validation_context"), combined)
        }
        Wire::ValidationContextCertificateProviderInstance(instance) => {
            let at = at.field("validation_context_certificate_provider_instance");
            Ok((Some(decode_deprecated(&at, &instance)?), Vec::new()))
        }
        Wire::ValidationContextSdsSecretConfig(_) => Err(at
            .field("validation_context_sds_secret_config")
            .unsupported("secret discovery")),
        Wire::ValidationContextCertificateProvider(_) => Err(at
            .field("validation_context_certificate_provider")
            .unsupported("a certificate provider outside the bootstrap")),
    }
}

fn decode_combined(
    at: &At<'_>,
    combined: CombinedCertificateValidationContext,
) -> Result<RootsAndNames> {
    at.refuse(
        "validation_context_sds_secret_config",
        combined.validation_context_sds_secret_config.is_some(),
    )?;
    at.refuse(
        "validation_context_certificate_provider",
        combined.validation_context_certificate_provider.is_some(),
    )?;
    let place = at.field("default_validation_context");
    let context = combined.default_validation_context.unwrap_or_default();
    let (mut roots, sans) = decode_validation_context(&place, context)?;
    if let (None, Some(instance)) = (
        &roots,
        &combined.validation_context_certificate_provider_instance,
    ) {
        let place = at.field("validation_context_certificate_provider_instance");
        roots = Some(decode_deprecated(&place, instance)?);
    }
    let place = place.field("ca_certificate_provider_instance");
    Ok((Some(place.required(roots)?), sans))
}

fn decode_validation_context(
    at: &At<'_>,
    wire: CertificateValidationContext,
) -> Result<RootsAndNames> {
    at.refuse(
        "verify_certificate_spki",
        !wire.verify_certificate_spki.is_empty(),
    )?;
    at.refuse(
        "verify_certificate_hash",
        !wire.verify_certificate_hash.is_empty(),
    )?;
    at.refuse(
        "require_signed_certificate_timestamp",
        wire.require_signed_certificate_timestamp == Some(true),
    )?;
    at.refuse("crl", wire.crl.is_some())?;
    at.refuse(
        "custom_validator_config",
        wire.custom_validator_config.is_some(),
    )?;
    at.refuse("max_verify_depth", wire.max_verify_depth.is_some())?;
    at.refuse(
        "match_typed_subject_alt_names",
        !wire.match_typed_subject_alt_names.is_empty(),
    )?;
    let instance = &wire.ca_certificate_provider_instance;
    at.refuse(
        "system_root_certs",
        wire.system_root_certs.is_some() && instance.is_none(),
    )?;
    // Ignoring these is never weaker than honouring them (gRFC A29 lists them).
    at.ignore(
        "trusted_ca",
        wire.trusted_ca.is_some(),
        "the certificate provider's roots are used",
    );
    at.ignore(
        "watched_directory",
        wire.watched_directory.is_some(),
        "the certificate provider watches its own files",
    );
    at.ignore(
        "allow_expired_certificate",
        wire.allow_expired_certificate,
        "an expired certificate is never accepted",
    );
    at.ignore(
        "trust_chain_verification",
        wire.trust_chain_verification
            != validation::TrustChainVerification::VerifyTrustChain as i32,
        "the trust chain is always verified",
    );
    at.ignore(
        "suppress_client_ca_list",
        wire.suppress_client_ca_list,
        "the TLS library decides",
    );
    let place = at.field("ca_certificate_provider_instance");
    let roots = instance.as_ref().map(|i| decode_instance(&place, i));
    let sans = wire.match_subject_alt_names.into_iter().enumerate();
    let sans = sans.map(|(i, m)| decode_string(&at.item("match_subject_alt_names", i), Some(m)));
    Ok((roots.transpose()?, sans.collect::<Result<_>>()?))
}

fn decode_deprecated(
    at: &At<'_>,
    wire: &CertificateProviderInstance,
) -> Result<CertificateInstance> {
    let current = CertificateProviderPluginInstance {
        instance_name: wire.instance_name.clone(),
        certificate_name: wire.certificate_name.clone(),
    };
    decode_instance(at, &current)
}

fn decode_instance(
    at: &At<'_>,
    wire: &CertificateProviderPluginInstance,
) -> Result<CertificateInstance> {
    let at = at.field("instance_name");
    let instance = at.text(wire.instance_name.clone())?;
    if let Some(known) = &at.context.certificate_providers
        && !known.contains(&instance)
    {
        return Err(at.rule(format!(
            "the bootstrap has no certificate provider {instance:?}"
        )));
    }
    Ok(CertificateInstance {
        instance,
        certificate_name: wire.certificate_name.clone(),
    })
}

pub(super) fn encode_upstream(tls: &UpstreamTls) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(encode_common(
            tls.identity.as_ref(),
            Some(&tls.roots),
            &tls.sans,
        )),
        ..Default::default()
    };
    encode_socket(Any::pack(&context))
}

pub(super) fn encode_downstream(tls: &DownstreamTls) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(encode_common(Some(&tls.identity), tls.roots.as_ref(), &[])),
        require_client_certificate: tls.require_client_certificate.then_some(true),
        ..Default::default()
    };
    encode_socket(Any::pack(&context))
}

fn encode_socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: SOCKET_NAME.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    }
}

/// Writes the current fields and, for gRPC runtimes from before them, the deprecated ones.
fn encode_common(
    identity: Option<&CertificateInstance>,
    roots: Option<&CertificateInstance>,
    sans: &[StringMatcher],
) -> CommonTlsContext {
    let validation = roots.map(|roots| {
        ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                ca_certificate_provider_instance: Some(encode_instance(roots)),
                match_subject_alt_names: sans.iter().map(encode_string).collect(),
                ..Default::default()
            }),
            validation_context_certificate_provider_instance: Some(encode_deprecated(roots)),
            ..Default::default()
        })
    });
    CommonTlsContext {
        tls_certificate_provider_instance: identity.map(encode_instance),
        tls_certificate_certificate_provider_instance: identity.map(encode_deprecated),
        validation_context_type: validation,
        ..Default::default()
    }
}

fn encode_instance(instance: &CertificateInstance) -> CertificateProviderPluginInstance {
    CertificateProviderPluginInstance {
        instance_name: instance.instance.clone(),
        certificate_name: instance.certificate_name.clone(),
    }
}

fn encode_deprecated(instance: &CertificateInstance) -> CertificateProviderInstance {
    CertificateProviderInstance {
        instance_name: instance.instance.clone(),
        certificate_name: instance.certificate_name.clone(),
    }
}
