#include "guestkernel/namespaces/uts_namespace.hpp"

#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"

namespace kernel {

UtsNamespace::UtsNamespace(Ref<UserNamespace> owner, bool counted)
    : Namespace(NamespaceKind::Uts, std::move(owner), counted) {}

Result<Ref<UtsNamespace>> copy_uts_namespace(UtsNamespace& from, Ref<UserNamespace> owner) {
    TRY(charge_namespace(NamespaceKind::Uts, owner.get()));
    auto copy = make_ref<UtsNamespace>(owner, true);
    if (!copy) {
        uncharge_namespace(NamespaceKind::Uts, owner.get());
        return copy;
    }
    SpinGuard guard(from.lock);
    (*copy)->host = from.host;
    (*copy)->domain = from.domain;
    return copy;
}

UtsNamespace* current_uts_namespace() {
    const Namespaces* own = current_namespaces();
    return own == nullptr ? nullptr : own->uts.get();
}

} // namespace kernel
