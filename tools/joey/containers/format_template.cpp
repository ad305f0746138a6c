#include "tools/joey/containers/format_template.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <unistd.h>
#include <utility>

#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/table.hpp"
#include "tools/joey/control_characters.hpp"

namespace joey::containers {

namespace {

using pod::Json;

constexpr int deepest = 32;
constexpr std::string_view blanks = " \t\r\n";

// A value to be computed.
struct Expression {
    enum class Kind { Dot, Variable, Literal, Call };
    Kind kind = Kind::Dot;
    std::string name; // of a variable or a function
    Json literal;
    std::vector<Expression> arguments;
    std::vector<std::string> path; // fields of the result
    std::vector<Expression> given; // to the last of these, which then is a method
};

} // namespace

struct FormatTemplate::Node {
    enum class Kind { Text, Print, If, Range, With };
    Kind kind = Kind::Text;
    std::string text;
    Expression value;
    std::vector<std::string> variables; // of a range: the element's, or the key's and the element's
    std::vector<Node> body;
    std::vector<Node> otherwise;
};

namespace {

using Node = FormatTemplate::Node;

// ---- words of an action

struct Token {
    enum class Kind { Word, Field, Variable, Text, Number, Sign, End };
    Kind kind = Kind::End;
    std::string text;
};

bool is_letter(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

class Words {
public:
    explicit Words(std::string_view text) : text_(text) {}

    os::Result<Token> next() {
        text_.remove_prefix(std::min(text_.find_first_not_of(blanks), text_.size()));
        if (text_.empty())
            return Token{};
        const char c = text_.front();
        if (c == '"' || c == '`')
            return quoted(c);
        if (text_.starts_with(":="))
            return take(Token::Kind::Sign, 2);
        if (c == '(' || c == ')' || c == '|' || c == ',')
            return take(Token::Kind::Sign, 1);
        if (c == '.')
            return take(Token::Kind::Field, 1 + letters(1));
        if (c == '$')
            return take(Token::Kind::Variable, 1 + letters(1));
        const std::size_t sign = c == '-' ? 1 : 0;
        if (sign < text_.size() && std::isdigit(static_cast<unsigned char>(text_[sign])) != 0)
            return take(Token::Kind::Number, sign + letters(sign));
        if (is_letter(c))
            return take(Token::Kind::Word, letters(0));
        return base::Failure(format_error(os::text("unexpected '", std::string(1, c), "'")));
    }
    // A field right behind what came last.
    bool is_field_next() const {
        return text_.size() > 1 && text_[0] == '.' && is_letter(text_[1]);
    }

private:
    std::size_t letters(std::size_t from) const {
        std::size_t count = 0;
        while (from + count < text_.size() && is_letter(text_[from + count]))
            ++count;
        return count;
    }
    Token take(Token::Kind kind, std::size_t length) {
        Token out{kind, std::string(text_.substr(0, length))};
        text_.remove_prefix(length);
        return out;
    }
    os::Result<Token> quoted(char quote) {
        std::string out;
        for (std::size_t i = 1; i < text_.size(); ++i) {
            if (text_[i] == quote) {
                text_.remove_prefix(i + 1);
                return Token{Token::Kind::Text, out};
            }
            if (quote == '"' && text_[i] == '\\' && i + 1 < text_.size()) {
                ++i;
                out += text_[i] == 'n' ? '\n' : text_[i] == 't' ? '\t' : text_[i];
            } else {
                out += text_[i];
            }
        }
        return base::Failure(format_error("a quotation mark is not closed"));
    }

    std::string_view text_;
};

// ---- values

class ExpressionParser {
public:
    explicit ExpressionParser(std::string_view text) : words_(text) {}

    os::Result<void> begin() {
        TRY(token_, words_.next());
        return {};
    }
    bool at_end() const { return token_.kind == Token::Kind::End; }
    bool at(std::string_view sign) const {
        return token_.kind == Token::Kind::Sign && token_.text == sign;
    }
    const Token& token() const { return token_; }
    os::Result<void> advance() { return begin(); }

    os::Result<Expression> pipeline(int depth = 0) {
        TRY(Expression out, command(depth));
        while (at("|")) {
            TRY(advance());
            TRY(Expression next, command(depth));
            if (next.kind != Expression::Kind::Call)
                return base::Failure(format_error("after '|' there must be a function"));
            next.arguments.push_back(std::move(out));
            out = std::move(next);
        }
        return out;
    }

private:
    bool begins_operand() const {
        return !at_end() && (token_.kind != Token::Kind::Sign || at("("));
    }

    // A function with its arguments, or an operand.
    os::Result<Expression> command(int depth) {
        if (token_.kind != Token::Kind::Word || token_.text == "true" || token_.text == "false") {
            TRY(Expression method, operand(depth));
            while (!method.path.empty() && begins_operand()) {
                TRY(Expression one, operand(depth));
                method.given.push_back(std::move(one));
            }
            return method;
        }
        Expression out;
        out.kind = Expression::Kind::Call;
        out.name = token_.text;
        TRY(advance());
        while (begins_operand()) {
            TRY(Expression one, operand(depth));
            out.arguments.push_back(std::move(one));
        }
        return out;
    }

    os::Result<void> path(Expression& out) {
        while (words_.is_field_next()) {
            TRY(advance());
            out.path.push_back(token_.text.substr(1));
        }
        return advance();
    }

    os::Result<Expression> operand(int depth) {
        Expression out;
        switch (token_.kind) {
        case Token::Kind::Field:
            if (token_.text.size() > 1)
                out.path.push_back(token_.text.substr(1));
            TRY(path(out));
            return out;
        case Token::Kind::Variable:
            out.kind = Expression::Kind::Variable;
            out.name = token_.text;
            TRY(path(out));
            return out;
        case Token::Kind::Text:
            out.kind = Expression::Kind::Literal;
            out.literal = token_.text;
            break;
        case Token::Kind::Number: {
            std::int64_t number = 0;
            const char* end = token_.text.data() + token_.text.size();
            if (std::from_chars(token_.text.data(), end, number).ptr != end)
                return base::Failure(format_error(os::text(token_.text, " is no whole number")));
            out.kind = Expression::Kind::Literal;
            out.literal = number;
            break;
        }
        case Token::Kind::Word:
            if (token_.text == "true" || token_.text == "false") {
                out.kind = Expression::Kind::Literal;
                out.literal = token_.text == "true";
            } else {
                out.kind = Expression::Kind::Call;
                out.name = token_.text;
            }
            break;
        case Token::Kind::Sign:
            if (at("(") && depth < deepest) {
                TRY(advance());
                TRY(out, pipeline(depth + 1));
                if (!at(")"))
                    return base::Failure(format_error("')' is missing"));
                TRY(path(out));
                return out;
            }
            [[fallthrough]];
        case Token::Kind::End:
            return base::Failure(format_error("a value is missing"));
        }
        TRY(advance());
        return out;
    }

    Words words_;
    Token token_;
};

// ---- text and actions

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    os::Result<std::vector<Node>> parse() {
        std::string end;
        TRY(std::vector<Node> out, nodes(0, end));
        if (!end.empty())
            return base::Failure(format_error(os::text("{{", end, "}} has no beginning")));
        return out;
    }

private:
    // Until the end, or the action that ends it, which is given.
    os::Result<std::vector<Node>> nodes(int depth, std::string& end) {
        std::vector<Node> out;
        if (depth > deepest)
            return base::Failure(format_error("too many actions within each other"));
        while (at_ < text_.size()) {
            const std::size_t open = std::min(text_.find("{{", at_), text_.size());
            add_text(out, text_.substr(at_, open - at_),
                     std::string_view(text_).substr(open).starts_with("{{- "));
            at_ = open;
            if (open == text_.size())
                break;
            // Not by TRY: GCC 12 takes the copy that it makes for one of nothing.
            const auto found = next_action();
            if (!found)
                return base::Failure(found.error());
            const std::string& action = *found;
            if (action.starts_with("/*"))
                continue;
            if (action == "end" || action.substr(0, action.find_first_of(blanks)) == "else") {
                end = action;
                return out;
            }
            TRY(Node one, node(action, depth));
            out.push_back(std::move(one));
        }
        end.clear();
        return out;
    }

    os::Result<std::string> next_action() {
        const std::size_t close = text_.find("}}", at_);
        if (close == std::string::npos)
            return base::Failure(format_error("{{ is not closed"));
        std::string_view inner = std::string_view(text_).substr(at_ + 2, close - at_ - 2);
        if (inner.starts_with("- "))
            inner.remove_prefix(1);
        trim_next_ = inner.ends_with(" -");
        if (trim_next_)
            inner.remove_suffix(1);
        at_ = close + 2;
        const std::size_t first = inner.find_first_not_of(blanks);
        if (first == std::string_view::npos)
            return base::Failure(format_error("{{}} is empty"));
        return std::string(inner.substr(first, inner.find_last_not_of(blanks) - first + 1));
    }

    void add_text(std::vector<Node>& out, std::string text, bool trim_end) {
        if (std::exchange(trim_next_, false))
            text.erase(0, std::min(text.find_first_not_of(blanks), text.size()));
        if (trim_end)
            text.erase(text.find_last_not_of(blanks) + 1);
        if (text.empty())
            return;
        Node one;
        one.text = std::move(text);
        out.push_back(std::move(one));
    }

    os::Result<Node> node(const std::string& action, int depth) {
        Node out;
        const std::string word = action.substr(0, action.find_first_of(blanks));
        out.kind = word == "if"      ? Node::Kind::If
                   : word == "range" ? Node::Kind::Range
                   : word == "with"  ? Node::Kind::With
                                     : Node::Kind::Print;
        const bool has_body = out.kind != Node::Kind::Print;
        ExpressionParser value(has_body ? std::string_view(action).substr(word.size())
                                        : std::string_view(action));
        TRY(value.begin());
        if (has_body) {
            TRY(variables(value, action, out));
        }
        TRY(out.value, value.pipeline());
        if (!value.at_end())
            return base::Failure(format_error(os::text("unexpected ", value.token().text)));
        if (!has_body)
            return out;
        std::string end;
        TRY(out.body, nodes(depth + 1, end));
        if (end == "else") {
            TRY(out.otherwise, nodes(depth + 1, end));
        } else if (end.starts_with("else")) {
            // {{else if}}: {{else}} and {{if}}, with one {{end}} for both.
            const std::string next =
                end.substr(end.find_first_not_of(blanks, std::string_view("else").size()));
            if (out.kind == Node::Kind::Range || next.substr(0, next.find_first_of(blanks)) != word)
                return base::Failure(
                    format_error(os::text("{{", end, "}} does not go with {{", word, "}}")));
            TRY(Node one, node(next, depth + 1));
            out.otherwise.push_back(std::move(one));
            return out;
        }
        if (end != "end")
            return base::Failure(format_error(os::text("{{", word, "}} has no {{end}}")));
        return out;
    }

    static os::Result<void> variables(ExpressionParser& value, const std::string& action,
                                      Node& out) {
        if (action.find(":=") == std::string::npos)
            return {};
        constexpr std::size_t most = 2;
        while (value.token().kind == Token::Kind::Variable && out.variables.size() < most) {
            out.variables.push_back(value.token().text);
            TRY(value.advance());
            if (value.at(","))
                TRY(value.advance());
        }
        if (!value.at(":="))
            return base::Failure(format_error("':=' is missing"));
        return value.advance();
    }

    std::string text_;
    std::size_t at_ = 0;
    bool trim_next_ = false;
};

// ---- printing

// What is known at one place of the template.
struct Scope {
    const Json* dot = nullptr;
    std::map<std::string, Json> variables;
};

os::Result<Json> value_of(const Expression& expression, const Scope& scope);

os::Result<std::vector<Json>> values_of(const std::vector<Expression>& expressions,
                                        const Scope& scope) {
    std::vector<Json> out;
    for (const Expression& one : expressions) {
        TRY(Json value, value_of(one, scope));
        out.push_back(std::move(value));
    }
    return out;
}

os::Result<Json> value_of(const Expression& expression, const Scope& scope) {
    Json out;
    if (expression.kind == Expression::Kind::Dot)
        out = *scope.dot;
    if (expression.kind == Expression::Kind::Literal)
        out = expression.literal;
    if (expression.kind == Expression::Kind::Variable) {
        const auto found = scope.variables.find(expression.name);
        if (found == scope.variables.end())
            return base::Failure(format_error(os::text("there is no variable ", expression.name)));
        out = found->second;
    }
    const bool is_or = expression.name == "or";
    if (expression.kind == Expression::Kind::Call && (is_or || expression.name == "and") &&
        !expression.arguments.empty()) {
        // What comes after the answer is not asked for.
        for (const Expression& one : expression.arguments) {
            TRY(out, value_of(one, scope));
            if (is_true(out) == is_or)
                break;
        }
    } else if (expression.kind == Expression::Kind::Call) {
        TRY(const std::vector<Json> given, values_of(expression.arguments, scope));
        TRY(out, call_function(expression.name, given));
    }
    for (const std::string& field : expression.path) {
        // pod::find() does not tell null from nothing.
        if (!out.is_object() || !out.contains(field))
            return base::Failure(format_error(os::text("there is no field ", field)));
        out = Json(out[field]);
    }
    if (!expression.given.empty()) {
        TRY(const std::vector<Json> given, values_of(expression.given, scope));
        TRY(out, call_method(expression.path.back(), out, given));
    }
    return out;
}

os::Result<void> print_nodes(const std::vector<Node>& nodes, const Scope& scope, std::string& out);

os::Result<void> print_range(const Node& node, const Json& all, const Scope& scope,
                             std::string& out) {
    if (!all.is_structured() || all.empty())
        return print_nodes(node.otherwise, scope, out);
    std::size_t number = 0;
    for (const auto& [key, one] : all.items()) {
        Scope inner = scope;
        inner.dot = &one;
        if (!node.variables.empty())
            inner.variables[node.variables.back()] = one;
        if (node.variables.size() > 1)
            inner.variables[node.variables.front()] = all.is_object() ? Json(key) : Json(number);
        ++number;
        TRY(print_nodes(node.body, inner, out));
    }
    return {};
}

os::Result<void> print_nodes(const std::vector<Node>& nodes, const Scope& scope, std::string& out) {
    for (const Node& node : nodes) {
        if (node.kind == Node::Kind::Text) {
            out += node.text;
            continue;
        }
        TRY(const Json value, value_of(node.value, scope));
        if (node.kind == Node::Kind::Print) {
            out += printed(value);
        } else if (node.kind == Node::Kind::Range) {
            TRY(print_range(node, value, scope, out));
        } else {
            Scope inner = scope;
            if (node.kind == Node::Kind::With && is_true(value))
                inner.dot = &value;
            if (!node.variables.empty())
                inner.variables[node.variables.front()] = value;
            TRY(print_nodes(is_true(value) ? node.body : node.otherwise, inner, out));
        }
    }
    return {};
}

// What is in images and containers does not drive the terminal.
std::string tame(std::string text) {
    if (::isatty(STDOUT_FILENO) != 1)
        return text;
    return with_controls_as(text, ' ', "\n\t");
}

// What a shell's quotation marks keep from being a tab or a new line.
std::string unescaped(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool is_escape = text[i] == '\\' && i + 1 < text.size();
        if (is_escape && (text[i + 1] == 't' || text[i + 1] == 'n'))
            out += text[++i] == 't' ? '\t' : '\n';
        else
            out += text[i];
    }
    return out;
}

} // namespace

os::Result<FormatTemplate> FormatTemplate::parse(std::string_view text) {
    Parser parser(unescaped(text));
    TRY(std::vector<Node> nodes, parser.parse());
    return FormatTemplate(std::make_shared<const std::vector<Node>>(std::move(nodes)));
}

os::Result<std::string> FormatTemplate::apply(const Json& document) const {
    Scope scope;
    scope.dot = &document;
    scope.variables["$"] = document;
    std::string out;
    TRY(print_nodes(*nodes_, scope, out));
    return out;
}

os::Result<std::string> format_all(const std::string& format, const std::vector<Json>& rows,
                                   const Json& heading) {
    constexpr std::string_view prefix = "table ";
    const bool is_table = format.starts_with(prefix);
    TRY(const FormatTemplate line,
        FormatTemplate::parse(std::string_view(format).substr(is_table ? prefix.size() : 0)));
    std::vector<std::vector<std::string>> cells;
    std::string out;
    const auto add = [&](const Json& row) -> os::Result<void> {
        TRY(std::string text, line.apply(row));
        if (!is_table) {
            out += text + "\n";
            return {};
        }
        std::vector<std::string>& words = cells.emplace_back();
        for (std::size_t at = 0; at <= text.size();) {
            const std::size_t end = std::min(text.find('\t', at), text.size());
            words.push_back(text.substr(at, end - at));
            at = end + 1;
        }
        return {};
    };
    if (is_table) {
        TRY(add(heading));
    }
    for (const Json& row : rows)
        TRY(add(row));
    // A value may have a tab of its own.
    std::size_t most = 0;
    for (const auto& row : cells)
        most = std::max(most, row.size());
    for (auto& row : cells)
        row.resize(most);
    return tame(is_table ? table(cells) : out);
}

} // namespace joey::containers
