// FormatTemplate: what --format takes besides "table" and "json", as Docker's users write it: the
// part of Go's text/template that prints documents.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/pod/json.hpp"

namespace joey::containers {

class FormatTemplate {
public:
    // "{{.Names}}: {{.Status}}"; \t and \n are what they say.
    static os::Result<FormatTemplate> parse(std::string_view text);
    // Whether --format gives one, "table {{...}}" too.
    static bool is_template(std::string_view format) {
        return format.find("{{") != std::string_view::npos;
    }

    // A field that is not there is an error, as it is with Docker.
    os::Result<std::string> apply(const pod::Json& document) const;

    struct Node;

private:
    explicit FormatTemplate(std::shared_ptr<const std::vector<Node>> nodes)
        : nodes_(std::move(nodes)) {}
    std::shared_ptr<const std::vector<Node>> nodes_;
};

// One line for each document; "table TEMPLATE" has a heading, whose words are in a document of the
// same shape.
os::Result<std::string> format_all(const std::string& format, const std::vector<pod::Json>& rows,
                                   const pod::Json& heading);

} // namespace joey::containers
