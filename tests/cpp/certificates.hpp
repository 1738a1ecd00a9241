// Certificates for tests of TLS: made anew in each run, by an authority of our own, in files of their own.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <zloop/tls/context.hpp>

#include "catch.hpp"

namespace support {

/// A key and its certificate.
struct credentials {
    std::string chain;  ///< the name of a PEM file
    std::string key;    ///< the same
};

/// Somebody who vouches for servers and clients.
class authority {
public:
    explicit authority(const std::string& name)
        : key_(new_key(), &::EVP_PKEY_free), own_(certify(name, "", key_.get(), nullptr), &::X509_free) {
        write("authority.pem", own_.get(), nullptr);
    }
    authority(const authority&) = delete;
    authority& operator=(const authority&) = delete;
    ~authority() { std::filesystem::remove_all(folder_); }

    /// The PEM file of its own certificate.
    std::string file() const { return folder_ + "/authority.pem"; }

    /// Makes a certificate; `names` as OpenSSL wants them: "DNS:localhost, IP:127.0.0.1".
    credentials issue(const std::string& subject, const std::string& names) {
        const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(new_key(), &::EVP_PKEY_free);
        const std::unique_ptr<X509, void (*)(X509*)> made(certify(subject, names, key.get(), own_.get()),
                                                          &::X509_free);
        const std::string stem = std::to_string(++serial_);
        write(stem + ".pem", made.get(), nullptr);
        write(stem + ".key", nullptr, key.get());
        return {folder_ + "/" + stem + ".pem", folder_ + "/" + stem + ".key"};
    }

    /// The same key, but behind a password.
    std::string encrypted(const credentials& of) {
        const std::string name = of.key + ".encrypted";
        FILE* const from = std::fopen(of.key.c_str(), "r");
        EVP_PKEY* const key = ::PEM_read_PrivateKey(from, nullptr, nullptr, nullptr);
        std::fclose(from);
        FILE* const to = std::fopen(name.c_str(), "w");
        char password[] = "secret";
        REQUIRE(::PEM_write_PrivateKey(to, key, ::EVP_aes_128_cbc(), nullptr, 0, nullptr, password) == 1);
        std::fclose(to);
        ::EVP_PKEY_free(key);
        return name;
    }

private:
    static EVP_PKEY* new_key() {
        EVP_PKEY* made = nullptr;
        EVP_PKEY_CTX* const how = ::EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nullptr);
        REQUIRE(::EVP_PKEY_keygen_init(how) == 1);
        REQUIRE(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(how, NID_X9_62_prime256v1) == 1);
        REQUIRE(::EVP_PKEY_keygen(how, &made) == 1);
        ::EVP_PKEY_CTX_free(how);
        return made;
    }

    /// By whom nobody is named, that is an authority, and vouches for itself.
    X509* certify(const std::string& subject, const std::string& names, EVP_PKEY* key, X509* by) {
        X509* const made = ::X509_new();
        ::X509_set_version(made, 2);
        ::ASN1_INTEGER_set(::X509_get_serialNumber(made), serial_ + 1);
        ::X509_gmtime_adj(::X509_getm_notBefore(made), -3600);
        ::X509_gmtime_adj(::X509_getm_notAfter(made), 24 * 3600);
        ::X509_set_pubkey(made, key);
        ::X509_NAME_add_entry_by_txt(::X509_get_subject_name(made), "CN", MBSTRING_ASC,
                                     reinterpret_cast<const unsigned char*>(subject.c_str()), -1, -1, 0);
        ::X509_set_issuer_name(made, ::X509_get_subject_name(by != nullptr ? by : made));
        extend(made, NID_basic_constraints, by != nullptr ? "critical,CA:FALSE" : "critical,CA:TRUE");
        if (!names.empty()) {
            extend(made, NID_subject_alt_name, names);
        }
        REQUIRE(::X509_sign(made, key_.get(), ::EVP_sha256()) > 0);
        return made;
    }

    static void extend(X509* certificate, int kind, const std::string& value) {
        X509_EXTENSION* const extension = ::X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str());
        REQUIRE(extension != nullptr);
        ::X509_add_ext(certificate, extension, -1);
        ::X509_EXTENSION_free(extension);
    }

    void write(const std::string& name, X509* certificate, EVP_PKEY* key) const {
        FILE* const file = std::fopen((folder_ + "/" + name).c_str(), "w");
        REQUIRE(file != nullptr);
        if (certificate != nullptr) {
            ::PEM_write_X509(file, certificate);
        }
        if (key != nullptr) {
            ::PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
        }
        std::fclose(file);
    }

    static std::string new_folder() {
        std::string name = (std::filesystem::temp_directory_path() / "zloop-tests-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        return name;
    }

    std::string folder_ = new_folder();
    long serial_ = 0;
    std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
    std::unique_ptr<X509, void (*)(X509*)> own_;
};

/// The one that most tests trust.
inline authority& trusted_authority() {
    static authority shared("zloop test authority");
    return shared;
}

/// A server's certificate for localhost, 127.0.0.1 and ::1.
inline const credentials& localhost() {
    static const credentials shared =
        trusted_authority().issue("localhost", "DNS:localhost, IP:127.0.0.1, IP:::1");
    return shared;
}

/// A server that shows it.
inline zloop::tls::context for_server() {
    return zloop::tls::context::server(localhost().chain, localhost().key).value();
}

/// A client that trusts it.
inline zloop::tls::context for_client() {
    return zloop::tls::context::client(trusted_authority().file()).value();
}

}  // namespace support
