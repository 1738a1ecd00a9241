// zloop/error.hpp: `result<T>`, what every I/O operation returns, and the errors that are our own.
//
// I/O fails as part of its work, so its errors are values; a kernel error keeps its errno in
// std::system_category. The end of a stream is no error: size 0.
#pragma once

#include <zloop/config.hpp>

#include <cerrno>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace zloop {

/// Errors that no kernel reports.
/// Example: examples/cpp/errors.cpp
enum class errc {
    end_of_stream = 1,  ///< the stream ended inside of what was asked for
    limit_exceeded,     ///< the delimiter did not come within the limit
    closed,             ///< the channel was closed
};

/// The category of `zloop::errc`.
inline const std::error_category& category() noexcept {
    struct words final : std::error_category {
        const char* name() const noexcept override { return "zloop"; }
        std::string message(int code) const override {
            switch (static_cast<errc>(code)) {
                case errc::end_of_stream: return "end of stream";
                case errc::limit_exceeded: return "limit exceeded";
                case errc::closed: return "closed";
            }
            return "unknown zloop error";
        }
    };
    static const words instance;
    return instance;
}

/// Makes a std::error_code of an errc, in category(); the standard library calls it.
inline std::error_code make_error_code(errc code) noexcept { return {static_cast<int>(code), category()}; }

/// The error of an errno, in std::system_category; 0 is success.
inline std::error_code system_error_code(int number) noexcept { return {number, std::system_category()}; }

}  // namespace zloop

template <>
struct std::is_error_code_enum<zloop::errc> : std::true_type {};

namespace zloop {

namespace detail {

/// Apart, so that who asks for a value has a branch in its code and no more.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_error(const std::error_code& error) {
    throw std::system_error(error);
}

}  // namespace detail

/// A value or an error.
///
/// Two ways to read it: `auto [error, value] = co_await …;`, where the value is T's default after an
/// error, or `.value()`, which throws std::system_error. Where T has no default there is only the second. `*`
/// and `->` are value() in fewer letters, for who has looked; `value_or()` is for who need not look.
///
/// Owns:    the value.
/// Example: examples/cpp/errors.cpp
template <class T>
class [[nodiscard]] result {
    static constexpr bool has_default = std::is_default_constructible_v<T>;

public:
    /// A value: no error.
    result(T value) noexcept(std::is_nothrow_move_constructible_v<T>) : value_(std::move(value)) {}
    /// An error: no value. One that says success is no error, and leaves T's default as the value.
    result(std::error_code error) noexcept : error_(error) {}
    /// One of our own errors.
    result(errc error) noexcept : error_(error) {}
    /// An error by its portable name, such as `std::errc::timed_out`.
    result(std::errc error) noexcept : error_(std::make_error_code(error)) {}

    /// Whether there is a value.
    explicit operator bool() const noexcept { return !error_; }
    /// What went wrong; empty when nothing did.
    const std::error_code& error() const noexcept { return error_; }

    /// The value.
    /// Fails: throws the error as std::system_error.
    T& value() & {
        check();
        return kept();
    }
    /// The value, to be moved from; otherwise the same.
    T&& value() && {
        check();
        return std::move(kept());
    }
    /// The value, to look at; otherwise the same.
    const T& value() const& {
        check();
        return const_cast<result&>(*this).kept();
    }

    /// The value, for who has looked.
    /// Fails: throws the error as std::system_error, in release builds too: it costs a branch.
    T& operator*() { return value(); }
    /// The same, to look at.
    const T& operator*() const { return value(); }
    /// A member of the value, for who has looked.
    /// Fails: as `*` does.
    T* operator->() { return std::addressof(value()); }
    /// The same, to look at.
    const T* operator->() const { return std::addressof(value()); }

    /// The value, or `other` after an error.
    template <class U>
        requires std::convertible_to<U, T> && std::copy_constructible<T>
    T value_or(U&& other) const& {
        return error_ ? static_cast<T>(std::forward<U>(other)) : value();
    }
    /// The same, moved out of the result.
    template <class U>
        requires std::convertible_to<U, T>
    T value_or(U&& other) && {
        return error_ ? static_cast<T>(std::forward<U>(other)) : std::move(kept());
    }

    /// The error (0) or the value (1), for `auto [error, value]`.
    template <std::size_t I>
    friend decltype(auto) get(result&& self) noexcept {
        if constexpr (I == 0) {
            return std::move(self.error_);
        } else {
            return std::move(self.kept());
        }
    }
    /// The same, of a result that has a name.
    template <std::size_t I>
    friend decltype(auto) get(result& self) noexcept {
        if constexpr (I == 0) {
            return (self.error_);
        } else {
            return self.kept();
        }
    }
    /// The same, of a constant one.
    template <std::size_t I>
    friend decltype(auto) get(const result& self) noexcept {
        if constexpr (I == 0) {
            return (self.error_);
        } else {
            return static_cast<const T&>(const_cast<result&>(self).kept());
        }
    }

private:
    T& kept() noexcept {
        if constexpr (has_default) {
            return value_;
        } else {
            return *value_;
        }
    }

    void check() const {
        if (error_) [[unlikely]] {
            detail::throw_error(error_);
        }
    }

    std::error_code error_;
    std::conditional_t<has_default, T, std::optional<T>> value_{};
};

/// Success or an error.
/// Example: examples/cpp/errors.cpp
template <>
class [[nodiscard]] result<void> {
public:
    /// Success.
    result() noexcept = default;
    /// An error. One that says success is success.
    result(std::error_code error) noexcept : error_(error) {}
    /// One of our own errors.
    result(errc error) noexcept : error_(error) {}
    /// An error by its portable name, such as `std::errc::timed_out`.
    result(std::errc error) noexcept : error_(std::make_error_code(error)) {}

    /// Whether it went well.
    explicit operator bool() const noexcept { return !error_; }
    /// What went wrong; empty when nothing did.
    const std::error_code& error() const noexcept { return error_; }

    /// Nothing, when it went well.
    /// Fails: throws the error as std::system_error.
    void value() const {
        if (error_) [[unlikely]] {
            detail::throw_error(error_);
        }
    }

private:
    std::error_code error_;
};

/// `value_of(co_await …)`: the value; throws the error. The same as `(co_await …).value()`, which g++ 12 does
/// not compile in templates and generic lambdas.
template <class R>
auto value_of(R&& outcome) {
    return std::forward<R>(outcome).value();
}

}  // namespace zloop

template <class T>
    requires std::is_default_constructible_v<T>
struct std::tuple_size<zloop::result<T>> : std::integral_constant<std::size_t, 2> {};
template <class T>
    requires std::is_default_constructible_v<T>
struct std::tuple_element<0, zloop::result<T>> {
    using type = std::error_code;
};
template <class T>
    requires std::is_default_constructible_v<T>
struct std::tuple_element<1, zloop::result<T>> {
    using type = T;
};
