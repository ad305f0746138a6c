// completion: scripts for shells, made from the table of commands.
#include <array>

#include <fmt/format.h>

#include "tools/joey/containers/commands.hpp"

namespace joey::containers {

namespace {

// Commands whose options are made elsewhere.
struct Other {
    const char* name;
    const char* words; // what may follow
    const char* summary;
};
constexpr std::array others = {
    Other{"do", "", "Run a program of this machine in a VM."},
    Other{"image", "import load ls rm inspect history tag prune export save help",
          "Images on this machine."},
    Other{"images", "", "List images."},
    Other{"load", "", "The same as image load."},
    Other{"import", "", "The same as image import."},
    Other{"save", "", "The same as image save."},
    Other{"tag", "", "The same as image tag."},
    Other{"rmi", "", "The same as image rm."},
    Other{"history", "", "The same as image history."},
    Other{"container",
          "ls create start stop restart kill rm pause unpause wait exec attach logs stats top "
          "inspect cp commit diff export port rename prune run",
          "Docker's longer names."},
    Other{"system", "df info prune events", "Docker's longer names."},
    Other{"help", "", "Print what there is."},
};

constexpr const char* names_call =
    "joey ps -a --format json 2>/dev/null | sed -n 's/.*\"Names\":\"\\([^\"]*\\)\".*/\\1/p'";
constexpr const char* images_call =
    "joey image ls 2>/dev/null | awk 'NR > 1 && $1 != \"<none>\" { print $1 \":\" $2 }'";

std::string offer_in_bash(Offer offer, const char* words) {
    switch (offer) {
    case Offer::Containers:
        return "COMPREPLY=($(compgen -W \"$(_joey_containers)\" -- \"$word\"))";
    case Offer::Images:
        return "COMPREPLY=($(compgen -W \"$(_joey_images)\" -- \"$word\"))";
    case Offer::Files:
        return "COMPREPLY=($(compgen -f -- \"$word\"))";
    case Offer::Words:
        return fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$word\"))", words);
    case Offer::Nothing:
        break;
    }
    return "COMPREPLY=()";
}

std::string words_of(const Command& command) {
    if (command.offer != Offer::Words)
        return "";
    return command.run == volume ? "ls create inspect rm prune" : "bash zsh fish";
}

std::string all_names() {
    std::string out;
    for (const Command& command : all_commands())
        out += fmt::format("{} ", command.name);
    for (const Other& other : others)
        out += fmt::format("{} ", other.name);
    out.pop_back();
    return out;
}

std::string options_of(const Command& command) {
    std::string out;
    for (const Option& option : command.options) {
        out += fmt::format("--{} ", option.name);
        if (option.letter != '\0')
            out += fmt::format("-{} ", option.letter);
    }
    return out + "--help";
}

// "--name|-n": the option that the word before is.
std::string pattern_of(const Option& option) {
    return option.letter == '\0' ? fmt::format("--{}", option.name)
                                 : fmt::format("--{}|-{}", option.name, option.letter);
}

std::string bash_command(const Command& command) {
    std::string out = fmt::format("    {})\n        case $before in\n", command.name);
    for (const Option& option : command.options) {
        if (option.takes != Takes::Nothing)
            out += fmt::format("        {}) {}; return ;;\n", pattern_of(option),
                               offer_in_bash(option.offer, option.words));
    }
    out +=
        fmt::format("        esac\n        if [[ $word == -* ]]; then\n"
                    "            COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n"
                    "        else\n            {}\n        fi\n        ;;\n",
                    options_of(command), offer_in_bash(command.offer, words_of(command).c_str()));
    return out;
}

std::string bash_script() {
    std::string out =
        fmt::format("# bash completion for joey; load it with: source <(joey completion bash)\n"
                    "_joey_containers() {{ {}; }}\n_joey_images() {{ {}; }}\n"
                    "_joey() {{\n    local word=${{COMP_WORDS[COMP_CWORD]}} "
                    "before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}}\n"
                    "    COMPREPLY=()\n"
                    "    if ((COMP_CWORD == 1)); then\n"
                    "        COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n        return\n    fi\n"
                    "    case $command in\n",
                    names_call, images_call, all_names());
    for (const Command& command : all_commands())
        out += bash_command(command);
    for (const Other& other : others)
        out += fmt::format(
            "    {}) {} ;;\n", other.name,
            offer_in_bash(*other.words != '\0' ? Offer::Words : Offer::Files, other.words));
    return out + "    esac\n}\ncomplete -F _joey joey\n";
}

// Quoted for single quotes of zsh and fish alike.
std::string quoted(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '\'')
            out += "'\\''";
        else
            out += c;
    }
    return out;
}

// In a specification of zsh's _arguments, these end a part.
std::string zsh_text(std::string_view text) {
    std::string out;
    for (const char c : quoted(text)) {
        if (c == '[' || c == ']' || c == ':')
            out += '\\';
        out += c;
    }
    return out;
}

std::string zsh_action(Offer offer, const char* words) {
    switch (offer) {
    case Offer::Containers:
        return "{compadd -- ${(f)\"$(_joey_containers)\"}}";
    case Offer::Images:
        return "{compadd -- ${(f)\"$(_joey_images)\"}}";
    case Offer::Files:
        return "_files";
    case Offer::Words:
        return fmt::format("({})", words);
    case Offer::Nothing:
        break;
    }
    return " ";
}

std::string zsh_script() {
    std::string out = fmt::format(
        "#compdef joey\n# zsh completion for joey; load it with: source <(joey completion zsh)\n"
        "_joey_containers() {{ {} }}\n_joey_images() {{ {} }}\n"
        "_joey() {{\n  if ((CURRENT == 2)); then\n    local -a commands=(\n",
        names_call, images_call);
    for (const Command& command : all_commands())
        out += fmt::format("      '{}:{}'\n", command.name, zsh_text(command.summary));
    for (const Other& other : others)
        out += fmt::format("      '{}:{}'\n", other.name, zsh_text(other.summary));
    out += "    )\n    _describe command commands\n    return\n  fi\n  local command=$words[2]\n"
           "  shift words\n  ((CURRENT--))\n  case $command in\n";
    for (const Command& command : all_commands()) {
        out += fmt::format("  {})\n    _arguments -s", command.name);
        for (const Option& option : command.options) {
            const std::string more = option.takes == Takes::Nothing
                                         ? ""
                                         : fmt::format(":{}:{}", zsh_text(option.value),
                                                       zsh_action(option.offer, option.words));
            const char* again = option.takes == Takes::Values ? "*" : "";
            out += fmt::format(" \\\n      '{}--{}[{}]{}'", again, option.name,
                               zsh_text(option.help), more);
            if (option.letter != '\0')
                out += fmt::format(" \\\n      '{}-{}[{}]{}'", again, option.letter,
                                   zsh_text(option.help), more);
        }
        out += fmt::format(" \\\n      '*: :{}'\n    ;;\n",
                           zsh_action(command.offer, words_of(command).c_str()));
    }
    return out + "  *) _files ;;\n  esac\n}\ncompdef _joey joey\n";
}

std::string fish_action(Offer offer, const char* words) {
    switch (offer) {
    case Offer::Containers:
        return " -f -a '(__joey_containers)'";
    case Offer::Images:
        return " -f -a '(__joey_images)'";
    case Offer::Files:
        return " -F";
    case Offer::Words:
        return fmt::format(" -f -a '{}'", words);
    case Offer::Nothing:
        break;
    }
    return " -f";
}

std::string fish_script() {
    // fish has its own rules for quotes within a function, which these two calls keep to.
    std::string out =
        fmt::format("# fish completion for joey; load it with: joey completion fish | source\n"
                    "function __joey_containers\n  {}\nend\nfunction __joey_images\n  {}\nend\n",
                    names_call, images_call);
    for (const Command& command : all_commands())
        out += fmt::format("complete -c joey -n __fish_use_subcommand -f -a {} -d '{}'\n",
                           command.name, quoted(command.summary));
    for (const Other& other : others)
        out += fmt::format("complete -c joey -n __fish_use_subcommand -f -a {} -d '{}'\n",
                           other.name, quoted(other.summary));
    for (const Command& command : all_commands()) {
        const std::string here =
            fmt::format("complete -c joey -n '__fish_seen_subcommand_from {}'", command.name);
        out += here + fish_action(command.offer, words_of(command).c_str()) + "\n";
        for (const Option& option : command.options) {
            out += fmt::format("{} -l {}", here, option.name);
            if (option.letter != '\0')
                out += fmt::format(" -s {}", option.letter);
            if (option.takes != Takes::Nothing)
                out += " -r" + fish_action(option.offer, option.words);
            out += fmt::format(" -d '{}'\n", quoted(option.help));
        }
    }
    return out;
}

} // namespace

os::Result<int> completion(Session&, const Arguments& arguments) {
    const std::string& shell = arguments.words().front();
    if (shell == "bash")
        return print(bash_script());
    if (shell == "zsh")
        return print(zsh_script());
    if (shell == "fish")
        return print(fish_script());
    return os::fail(os::Code::InvalidArgument, "completion: '", shell, "': give bash, zsh or fish");
}

} // namespace joey::containers
